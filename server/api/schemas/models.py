"""/v1/models on the wire, in OpenAI's shape."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from server.api.schemas.pages import StrictQuery


class ModelObject(BaseModel):
    """A base model, or an adapter that may be given as `model`; then `parent` is its base model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tinylora"
    root: str
    parent: str | None
    max_model_len: int


class ModelList(BaseModel):
    """The base models, then adapters by name; when `has_more`, ask for the next ones with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelDeleted(BaseModel):
    """What OpenAI's client calls a deleted model: an adapter with all of its versions, or one version of it."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelQuery(StrictQuery):
    """What Azure's clients put into the query of every request; it means nothing here."""

    api_version: str | None = Field(None, alias="api-version")


class ModelsQuery(ModelQuery):
    """Where the listing of models begins (behind the one called `after`) and how long it is."""

    after: str | None = None
    limit: int = Field(1000, ge=1, le=1000)
