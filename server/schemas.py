"""What the gateway's own routes answer and the query parameters they take, as OpenAI-like wire objects.

Design decision: only the edge knows these; inside, versions are `StoredVersion`s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from server.errors import BadRequest, quoted
from server.stored_version import Entry, Listed

MAX_METADATA_FILTERS = 16
_METADATA = re.compile(r"metadata(?:\[(?P<bracketed>.*)\]|\.(?P<dotted>.*))", re.DOTALL)


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
    """One version of an adapter. `bytes` is the length of its vector, `sha256` the digest of those bytes.

    `public` is of the adapter, all of whose versions other tenants may then use as `~tenant/name`.
    """

    id: str = Field(examples=["acme/math@3"])
    object: Literal["adapter"] = "adapter"
    name: str
    version: int
    created_at: int
    deleted_at: int | None
    public: bool
    recipe: RecipeObject
    factors: str
    dtype: str
    bytes: int
    sha256: str
    metadata: dict[str, str]

    @classmethod
    def of(cls, entry: Entry | Listed) -> AdapterObject:
        """The wire form of `entry`."""
        if isinstance(entry, Entry):
            entry = entry.listed()
        stored = entry.stored
        return cls(
            id=stored.id,
            name=stored.name,
            version=stored.version,
            created_at=stored.created_at,
            deleted_at=entry.deleted_at,
            public=entry.public,
            recipe=RecipeObject(**stored.recipe.to_dict()),
            factors=stored.factors,
            dtype=stored.dtype,
            bytes=stored.size,
            sha256=stored.sha256,
            metadata=dict(stored.metadata),
        )


class HasId(Protocol):
    """What pages are of."""

    id: str


class IdPage(BaseModel):
    """A page of a listing; subclasses say of what their `data` is."""

    object: Literal["list"] = "list"
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def page(cls, data: Sequence[HasId], has_more: bool) -> Self:
        """`data` as a page."""
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        fields: dict[str, Any] = {"data": data, "has_more": has_more, "first_id": first_id, "last_id": last_id}
        return cls(**fields)


class AdapterList(IdPage):
    """A page of adapters; ask for the next one with `after` = `last_id`."""

    data: list[AdapterObject]

    @classmethod
    def of(cls, items: Sequence[Listed], has_more: bool) -> AdapterList:
        """The wire form of a page."""
        data = [AdapterObject.of(item) for item in items]
        return cls.page(data, has_more)


class AdapterDeleted(BaseModel):
    """What was deleted: one version, or an adapter with all of its versions; `purged` when for good."""

    id: str
    object: Literal["adapter.deleted"] = "adapter.deleted"
    deleted: Literal[True] = True
    versions: list[int]
    purged: bool


class AdapterChange(BaseModel):
    """What to change about an adapter."""

    model_config = ConfigDict(extra="forbid", strict=True)

    public: bool


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


class StrictQuery(BaseModel):
    """Query parameters of which none may be unknown."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(StrictQuery):
    """Where a page begins (behind the item `after`) and how long it is."""

    after: str | None = None
    limit: int = Field(20, ge=1, le=100)


def metadata_filters(parameters: Iterable[tuple[str, object]], known: str) -> dict[str, str]:
    """What `metadata[key]=value` and `metadata.key=value` among query `parameters` search for.

    BadRequest for a parameter that is neither; `known` are those that the route has besides.
    """
    wanted: dict[str, str] = {}
    for name, value in parameters:
        match = _METADATA.fullmatch(name)
        if match is None:
            raise BadRequest(
                f"the query has the unknown parameter {quoted(name)}; known are {known} and metadata[<key>]",
                param=name,
                code="unknown_parameter",
            )
        key = match["bracketed"] if match["dotted"] is None else match["dotted"]
        if not isinstance(value, str) or not (key + value).isprintable() or key in wanted:
            raise BadRequest(
                f"{quoted(name)} is {quoted(value)}, expected one printable value", param=name, code="invalid_value"
            )
        wanted[key] = value
    return wanted


def check_filter_count(wanted: dict[str, str]) -> dict[str, str]:
    """`wanted` itself. BadRequest when that is more metadata than anything has."""
    if len(wanted) > MAX_METADATA_FILTERS:
        raise BadRequest(
            f"the query has {len(wanted)} metadata keys, expected at most {MAX_METADATA_FILTERS}",
            param="metadata",
            code="invalid_value",
        )
    return wanted


# How names of adapters may begin, see names.py.
NamePrefix = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._:/-]*$")]


class ListQuery(PageQuery):
    """Which adapters to list: of a name that begins with `prefix`, with `metadata[key]=value` (or `metadata.key=value`,
    which needs no escaping in a shell); with `public`, those of all tenants that are public."""

    model_config = ConfigDict(extra="allow")

    prefix: NamePrefix = ""
    public: bool = False

    def metadata(self) -> dict[str, str]:
        """The metadata to search for. BadRequest for a parameter that is neither this nor known."""
        return check_filter_count(metadata_filters((self.model_extra or {}).items(), "after, limit, prefix, public"))


class VersionsQuery(PageQuery):
    """With `deleted`, the versions that are deleted and can be restored, in the place of the others."""

    deleted: bool = False


class DeleteQuery(StrictQuery):
    """With `purge`, for good: what is deleted cannot be restored."""

    purge: bool = False


class VectorQuery(StrictQuery):
    """In what format to send a vector; default is what Accept asks for, else raw bytes."""

    format: Literal["raw", "safetensors"] | None = None


class ModelQuery(StrictQuery):
    """What Azure's clients put into the query of every request; it means nothing here."""

    api_version: str | None = Field(None, alias="api-version")


class ModelsQuery(ModelQuery):
    """Where the listing of models begins (behind the one called `after`) and how long it is."""

    after: str | None = None
    limit: int = Field(1000, ge=1, le=1000)


class NoQuery(StrictQuery):
    """No query parameters at all."""
