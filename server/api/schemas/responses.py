"""Stored responses on the wire, in OpenAI's shape. The objects are what the engine answered, and are not described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.schemas.pages import StrictQuery


class ResponseObject(BaseModel):
    """A response: who answered what, and its state."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: Any = None
    output: list[Any]
    previous_response_id: str | None = None
    background: bool = False
    store: bool = True


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


class ResponseQuery(StrictQuery):
    """How a response is to be given. `include` names what is there anyway, where the model gives it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    stream: bool = False
    include: list[str] = Field([], max_length=20)
    include_brackets: list[str] = Field([], max_length=20, alias="include[]")


class ItemsQuery(StrictQuery):
    """Which items: those behind the item `after`, in the order of the conversation or from its end."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    after: str | None = Field(None, max_length=64)
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    include: list[str] = Field([], max_length=20)
    include_brackets: list[str] = Field([], max_length=20, alias="include[]")
