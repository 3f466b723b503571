"""/v1/usage on the wire: OpenAI's shape, with its names and with ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from server.api.schemas.pages import StrictQuery
from server.inference.usage_report import Report, Usage

MAX_FILTERS = 100
MAX_TIME = 2**40
_LISTS = ("group_by", "adapters", "keys", "tenants")
_SYNONYMS = {"models": "adapters", "api_key_ids": "keys", "project_ids": "tenants"}
Name = Annotated[str, Field(max_length=256, pattern="^[ -~]*$")]


class UsageParameters(StrictQuery):
    """The query. Times are in seconds since 1970, and are widened to whole buckets of UTC.

    Lists are given by repeating the parameter, with or without `[]` behind its name. The name of an adapter stands for
    all of its versions.
    """

    start_time: int = Field(ge=0, le=MAX_TIME)
    end_time: int | None = Field(None, ge=0, le=MAX_TIME, description="exclusive; default: now")
    bucket_width: Literal["1h", "1d"] = "1d"
    group_by: list[Literal["adapter", "key", "tenant", "model", "api_key_id", "project_id"]] = Field(
        [], max_length=MAX_FILTERS
    )
    adapters: list[Name] = Field([], max_length=MAX_FILTERS)
    keys: list[Name] = Field([], max_length=MAX_FILTERS)
    tenants: list[Name] = Field([], max_length=MAX_FILTERS)
    all_tenants: bool = Field(False, description="of all tenants (with the scope admin), as is group_by=tenant")
    limit: int | None = Field(
        None, ge=1, description="buckets: default 24, at most 168 (1h); default 7, at most 31 (1d)"
    )
    page: str | None = Field(None, max_length=2048, description="next_page of the page before")

    @classmethod
    def lists(cls) -> set[str]:
        return {name + ending for name in (*_LISTS, *_SYNONYMS) for ending in ("", "[]")}

    @model_validator(mode="before")
    @classmethod
    def _with_our_names(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        ours: dict[str, Any] = {}
        for name, value in sent.items():
            known = _SYNONYMS.get(name.removesuffix("[]"), name.removesuffix("[]"))
            if known in _LISTS:
                ours[known] = [*ours.get(known, []), *(value if isinstance(value, list) else [value])]
            else:
                ours[name] = value
        return ours


class UsageResult(BaseModel):
    """What one group used in one bucket; `model` is an adapter, `project_id` a tenant's name. Null if not asked for."""

    object: Literal["organization.usage.completions.result"] = "organization.usage.completions.result"
    input_tokens: int
    output_tokens: int
    num_model_requests: int
    project_id: str | None
    api_key_id: str | None
    model: str | None

    @classmethod
    def of(cls, usage: Usage) -> UsageResult:
        return cls(
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            num_model_requests=usage.requests,
            project_id=usage.tenant,
            api_key_id=usage.key or None,
            model=usage.adapter,
        )


class UsageBucket(BaseModel):
    """A stretch of time; `end_time` is exclusive."""

    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[UsageResult]


class UsagePage(BaseModel):
    """Buckets in the order of time. A bucket with very many results goes on at the beginning of the next page."""

    object: Literal["page"] = "page"
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None

    @classmethod
    def of(cls, report: Report, width: int) -> UsagePage:
        data = [
            UsageBucket(start_time=start, end_time=start + width, results=[UsageResult.of(usage) for usage in results])
            for start, results in report.buckets
        ]
        return cls(
            data=data, has_more=report.next is not None, next_page=None if report.next is None else str(report.next)
        )
