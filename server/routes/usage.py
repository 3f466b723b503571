"""GET /v1/usage: what was used, in the shape of OpenAI's usage API. (/usage is the same.)

Design decision: answers are those of OpenAI's /v1/organization/usage/completions, and its names for our words are
understood too: model (adapter), api_key_id (key), project_id (tenant). So programs that read the one read the other.

A tenant sees its own usage; with the scope admin, that of all tenants can be asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from server.errors import BadRequest, Forbidden
from server.gateway import GatewayDep
from server.principal import Principal, PrincipalDep
from server.routes.own_route import OwnRoute
from server.schemas import StrictQuery
from server.usage_report import Cursor, Group, Report, Usage, UsageQuery, parse_cursor, read_usage

WIDTHS_S = {"1h": 3600, "1d": 86_400}
# OpenAI's: buckets of a page by default, and at most.
BUCKETS = {"1h": (24, 168), "1d": (7, 31)}
MAX_FILTERS = 100
MAX_TIME = 2**40
_LISTS = ("group_by", "adapters", "keys", "tenants")
_SYNONYMS = {"models": "adapters", "api_key_ids": "keys", "project_ids": "tenants"}
_GROUPS: dict[str, Group] = {
    "adapter": "adapter",
    "model": "adapter",
    "key": "key",
    "api_key_id": "key",
    "tenant": "tenant",
    "project_id": "tenant",
}

Name = Annotated[str, Field(max_length=256, pattern="^[ -~]*$")]
router = APIRouter(prefix="/v1", tags=["usage"], route_class=OwnRoute)


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


@router.get("/usage")
@router.get("/organization/usage/completions", include_in_schema=False)
def get_usage(
    gateway: GatewayDep, principal: PrincipalDep, parameters: Annotated[UsageParameters, Query()]
) -> UsagePage:
    """Tokens and requests, by time and, if asked for, by adapter, key and tenant."""
    query = _query(parameters, principal)
    default, most = BUCKETS[parameters.bucket_width]
    limit = default if parameters.limit is None else parameters.limit
    if limit > most:
        raise BadRequest(
            f"limit is {limit}, expected at most {most} buckets of {parameters.bucket_width}",
            param="limit",
            code="invalid_value",
        )
    cursor = Cursor(query.start) if parameters.page is None else parse_cursor(parameters.page, len(query.groups))
    gateway.usage.flush()
    with gateway.database.read() as connection:
        return UsagePage.of(read_usage(connection, query, cursor, limit), query.width)


def _query(parameters: UsageParameters, principal: Principal) -> UsageQuery:
    groups: tuple[Group, ...] = tuple(dict.fromkeys(_GROUPS[name] for name in parameters.group_by))
    others = parameters.all_tenants or not {principal.tenant.name}.issuperset(parameters.tenants)
    of_all = others or ("tenant" in groups and principal.may("admin"))
    if of_all and not principal.may("admin"):
        raise Forbidden("The usage of other tenants takes a key with the scope admin; ask for your own.")
    width = WIDTHS_S[parameters.bucket_width]
    end = int(time.time()) + 1 if parameters.end_time is None else parameters.end_time
    if end <= parameters.start_time:
        raise BadRequest(
            f"end_time is {end} and start_time {parameters.start_time}; a query ends after it begins",
            param="end_time" if parameters.end_time is not None else "start_time",
            code="invalid_value",
        )
    return UsageQuery(
        None if of_all else principal.tenant.id,
        start=parameters.start_time // width * width,
        end=-(-end // width) * width,
        width=width,
        groups=groups,
        adapters=parameters.adapters,
        keys=parameters.keys,
        tenants=parameters.tenants,
    )
