"""/v1/models on the wire, in the shapes of OpenAI and of Anthropic at once.

Design decision: one object with the fields of both, whose names do not collide, and not one of two shapes chosen by a
header: programs ask for models with whatever headers they have.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, Field

from adapters.factors.factors import Factors, Kind
from server.api.schemas.pages import After, StrictQuery


class FactorsObject(BaseModel):
    """The factors of a base model, that adapters are made for: an adapter names their `digest`, and its rank is at most
    theirs. `modules`: how many linears they cover, so as many `groups` as a recipe may have."""

    digest: str
    kind: Kind
    rank: int
    modules: int

    @classmethod
    def of(cls, factors: Factors) -> Self:
        """What is told of `factors`."""
        return cls(digest=factors.digest, kind=factors.kind, rank=factors.rank, modules=len(factors.modules))


class ModelObject(BaseModel):
    """A base model with its `factors`, or an adapter that may be given as `model`; then `parent` is its base model.

    `type`, `display_name`, `created_at` and `lifecycle` are Anthropic's.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tinylora"
    root: str
    parent: str | None
    max_model_len: int
    factors: FactorsObject | None = None
    type: Literal["model"] = "model"
    display_name: str
    created_at: datetime
    lifecycle: Literal["active"] = "active"

    @classmethod
    def of(
        cls, id: str, created: int, *, root: str, parent: str | None, max_model_len: int, factors: Factors | None = None
    ) -> Self:
        """A model of this time, in seconds since 1970."""
        return cls(
            id=id,
            created=created,
            root=root,
            parent=parent,
            max_model_len=max_model_len,
            factors=None if factors is None else FactorsObject.of(factors),
            display_name=id,
            created_at=datetime.fromtimestamp(created, UTC),
        )


class ModelList(BaseModel):
    """The base models, then adapters by name; when `has_more`, ask for the next ones with `after` = `last_id`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def page(cls, data: list[ModelObject], has_more: bool) -> Self:
        """`data` as a page."""
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, first_id=first_id, last_id=last_id, has_more=has_more)


class ModelDeleted(BaseModel):
    """What OpenAI's client calls a deleted model: an adapter with all of its versions, or one version of it."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class ModelQuery(StrictQuery):
    """What Azure's clients, and Anthropic's with betas, put into the query of every request; it means nothing here."""

    api_version: str | None = Field(None, alias="api-version")
    beta: str | None = None


class ModelsQuery(ModelQuery):
    """Where the listing of models begins (behind the one called `after` or `after_id`), or ends (before the one called
    `before_id`), and how long it is."""

    after: After = None
    after_id: str | None = None
    before_id: str | None = None
    limit: int = Field(1000, ge=1, le=1000)
