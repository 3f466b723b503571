"""Stored responses on the wire, in OpenAI's shape. The objects are what the engine answered, and are not described."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from openai.types.responses import ResponseIncludable
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.engine import Row

from server.api.schemas.pages import IdPage, PageQuery, StrictQuery

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseObject(BaseModel):
    """A response: who answered what, and its state."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    model: Any = None
    output: list[Any]
    previous_response_id: str | None = None
    background: bool = False
    store: bool = True


class ResponseSummary(BaseModel):
    """A response in a listing, without its input and output, which may be long: fetch it for those.

    `model` is the adapter that answered, "acme/math@3", or the base model; `streams` says whether it can be streamed.
    """

    id: str
    object: Literal["response.summary"] = "response.summary"
    created_at: int
    status: Status
    model: str | None
    background: bool
    streams: bool
    previous_response_id: str | None
    bytes: int

    @classmethod
    def of(cls, row: Row[Any]) -> ResponseSummary:
        same = cls.model_fields.keys() & row._mapping.keys()
        return cls(**{name: getattr(row, name) for name in same}, streams=row.events is not None)


class ResponseList(IdPage):
    """A page of the tenant's responses; ask for the next one with `after` = `last_id`."""

    data: list[ResponseSummary]


class ResponsesQuery(PageQuery):
    """Which responses, in the order of the time they were made. `model` is one of a response, or an adapter's name,
    which stands for all of its versions; "inline" and "mix" are vectors and mixtures within requests."""

    order: Literal["asc", "desc"] = "desc"
    status: Status | None = None
    model: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]*$")] | None = None


class ResponseDeleted(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemObject(BaseModel):
    """An item of a response's input: a message, a call, its output."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Any = None


class ItemList(BaseModel):
    """A page of items; ask for the next one with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ItemObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _IncludeQuery(StrictQuery):
    """`include` names what is there anyway, where the model gives it. Clients write it with brackets or without."""

    include: list[ResponseIncludable] = Field([], max_length=20)
    include_brackets: list[ResponseIncludable] = Field([], max_length=20, alias="include[]")


class ResponseQuery(_IncludeQuery):
    """How a response is to be given.

    With `stream`, the events of a response that was made with background and stream: all of them, or those behind the
    event with the sequence_number `starting_after`. `include_obfuscation` changes nothing: there is none.
    """

    stream: bool = False
    starting_after: int | None = Field(None, ge=0, lt=2**31 - 1)
    include_obfuscation: bool = False


class ItemsQuery(_IncludeQuery):
    """Which items: those behind the item `after`, in the order of the conversation or from its end."""

    after: str | None = Field(None, max_length=64)
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
