"""/v1/batches on the wire, in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.engine import Row

from server.api.bodies.file_upload import ExpiresAfter
from server.api.schemas.metadata import Metadata
from server.api.schemas.pages import IdPage
from server.batches.states import Status
from server.core.errors import quoted

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]


class BatchCreate(BaseModel):
    """A new batch. `input_file_id`: a file of the purpose "batch", with a request on each line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: str = Field(max_length=255)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata = None
    output_expires_after: ExpiresAfter | None = None

    @field_validator("endpoint", mode="before")
    @classmethod
    def _known(cls, endpoint: object) -> object:
        if endpoint not in get_args(Endpoint):
            raise ValueError(f"batches are for {', '.join(get_args(Endpoint))}, not for {quoted(endpoint)}")
        return endpoint


class BatchError(BaseModel):
    """What is wrong with the input file; `line` from 1, null where it is the file as a whole."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchErrors(BaseModel):
    """Why a batch failed."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """Lines: all, those with an answer, those with an error."""

    total: int
    completed: int
    failed: int


class InputTokens(BaseModel):
    """Of the prompts' tokens."""

    cached_tokens: int


class OutputTokens(BaseModel):
    """Of the answers' tokens."""

    reasoning_tokens: int


class BatchUsage(BaseModel):
    """Tokens of the lines answered so far."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class BatchObject(BaseModel):
    """One batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, row: Row[Any]) -> BatchObject:
        same = cls.model_fields.keys() & row._mapping.keys() - {"errors", "metadata"}
        fields: dict[str, Any] = {name: getattr(row, name) for name in same}
        return cls(
            **fields,
            errors=None if row.errors is None else BatchErrors(data=json.loads(row.errors)),
            metadata=None if row.metadata is None else json.loads(row.metadata),
            request_counts=RequestCounts(total=row.total, completed=row.completed, failed=row.failed),
            usage=BatchUsage(
                input_tokens=row.prompt_tokens,
                input_tokens_details=InputTokens(cached_tokens=row.cached_tokens),
                output_tokens=row.completion_tokens,
                output_tokens_details=OutputTokens(reasoning_tokens=row.reasoning_tokens),
                total_tokens=row.prompt_tokens + row.completion_tokens,
            ),
        )


class BatchList(IdPage):
    """A page of batches; ask for the next one with `after` = `last_id`."""

    data: list[BatchObject]
