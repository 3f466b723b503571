"""What the gateway's own routes answer and the query parameters they take, as OpenAI-like wire objects.

Only the edge knows these; inside, versions are `StoredVersion`s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.schemas.pages import IdPage, NamePrefix, PageQuery, StrictQuery, check_filter_count, metadata_filters
from server.registry.versions import Entry, Listed


class RecipeObject(BaseModel):
    """See `adapters.vector.recipe.Recipe`."""

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


class ExportQuery(StrictQuery):
    """What to export, and how. `limit` and `after` cut a safetensors export into files."""

    format: Literal["ndjson", "safetensors"] = "ndjson"
    versions: Literal["latest", "all"] = "latest"
    prefix: NamePrefix = ""
    after: str | None = None
    limit: int | None = Field(None, ge=1, le=2**31 - 1)
