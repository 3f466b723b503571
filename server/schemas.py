"""What the gateway's own routes answer and the query parameters they take, as OpenAI-like wire objects.

Design decision: only the edge knows these; inside, versions are `StoredVersion`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.registry import StoredVersion


class RecipeObject(BaseModel):
    """See `adapters.recipe.Recipe`."""

    rank: int
    u: int
    groups: int
    tying: str
    seed: int
    projection: str
    convention: str


class AdapterObject(BaseModel):
    """One version of an adapter. `bytes` is the length of its vector, `sha256` the digest of those bytes."""

    id: str = Field(examples=["acme/math@3"])
    object: Literal["adapter"] = "adapter"
    name: str
    version: int
    created_at: int
    recipe: RecipeObject
    factors: str
    dtype: str
    bytes: int
    sha256: str
    metadata: dict[str, str]

    @classmethod
    def of(cls, stored: StoredVersion) -> AdapterObject:
        """The wire form of `stored`."""
        return cls(
            id=stored.id,
            name=stored.name,
            version=stored.version,
            created_at=stored.created_at,
            recipe=RecipeObject(**stored.adapter.recipe.to_dict()),
            factors=stored.adapter.factors,
            dtype=stored.adapter.dtype,
            bytes=len(stored.adapter.data),
            sha256=stored.sha256,
            metadata=dict(stored.metadata),
        )


class AdapterList(BaseModel):
    """A page of adapters; ask for the next one with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[AdapterObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, items: Sequence[StoredVersion], has_more: bool) -> AdapterList:
        """The wire form of a page."""
        data = [AdapterObject.of(item) for item in items]
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, has_more=has_more, first_id=first_id, last_id=last_id)


class AdapterDeleted(BaseModel):
    """What was deleted: one version, or an adapter with all of its versions."""

    id: str
    object: Literal["adapter.deleted"] = "adapter.deleted"
    deleted: Literal[True] = True


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
    """The base models, then adapters by name; `has_more` when not all adapters fitted."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    has_more: bool


class StrictQuery(BaseModel):
    """Query parameters of which none may be unknown."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictQuery):
    """Where a page begins (behind the item `after`) and how long it is."""

    after: str | None = None
    limit: int = Field(20, ge=1, le=100)


class VectorQuery(StrictQuery):
    """In what format to send a vector; default is what Accept asks for, else raw bytes."""

    format: Literal["raw", "safetensors"] | None = None


class NoQuery(StrictQuery):
    """No query parameters at all."""
