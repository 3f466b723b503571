"""Versions of adapters as the registry hands them out, and how they are read from rows.

Many versions are in memory at once, so what they have in common (recipes, digests of factors, empty metadata) is one
object for all of them. A listing reads what describes a version and not its vector, which may be megabytes long.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from adapters.vector.adapter import Adapter
from adapters.vector.recipe import DType, Recipe
from server.db.tables import ADAPTER_VERSIONS, ADAPTERS

SHARED_RECIPES = 4096
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a registered adapter. `created_at` is in seconds since 1970, `sha256` is of the vector's bytes.

    `name` is as the one who asks would write it: another tenant's adapters begin with `~tenant/`.
    """

    name: str
    version: int
    created_at: int
    adapter: Adapter
    sha256: str
    metadata: Mapping[str, str]

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    def described(self) -> Description:
        """The same without the vector."""
        adapter = self.adapter
        return Description(
            name=self.name,
            version=self.version,
            created_at=self.created_at,
            recipe=adapter.recipe,
            factors=adapter.factors,
            dtype=adapter.dtype,
            size=len(adapter.data),
            sha256=self.sha256,
            metadata=self.metadata,
        )

    def named(self, name: str) -> StoredVersion:
        """The same version under another name."""
        return self if name == self.name else replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Description:
    """What is said of a version: a StoredVersion with `size`, the bytes of its vector, in the place of the vector."""

    name: str
    version: int
    created_at: int
    recipe: Recipe
    factors: str
    dtype: DType
    size: int
    sha256: str
    metadata: Mapping[str, str]

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A version with what may change about it and its adapter. `deleted_at` is in seconds since 1970."""

    stored: StoredVersion
    revision: int
    public: bool
    deleted_at: int | None = None

    def listed(self) -> Listed:
        """The same as a listing has it."""
        return Listed(self.stored.described(), self.public, self.deleted_at)


@dataclass(frozen=True, slots=True)
class Listed:
    """One version of a listing. `public` and `deleted_at` are as in Entry."""

    stored: Description
    public: bool
    deleted_at: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a listing; `has_more` when another one follows it."""

    items: tuple[Listed, ...]
    has_more: bool


_OF_ADAPTER = (ADAPTERS.c.name, ADAPTERS.c.revision, ADAPTERS.c.public)
_IS_OF_ADAPTER = ADAPTERS.c.id == ADAPTER_VERSIONS.c.adapter_id
# In bytes, which neither database reads the vector for.
VECTOR_SIZE = sa.func.length(ADAPTER_VERSIONS.c.data)
_DESCRIBED = (*(column for column in ADAPTER_VERSIONS.c if column.name != "data"), VECTOR_SIZE.label("size"))
# Everything an Entry is made of.
VERSION_ROWS = sa.select(*_OF_ADAPTER, ADAPTER_VERSIONS).join_from(ADAPTER_VERSIONS, ADAPTERS, _IS_OF_ADAPTER)
# Everything a Listed is made of.
LISTED_ROWS = sa.select(*_OF_ADAPTER, *_DESCRIBED).join_from(ADAPTER_VERSIONS, ADAPTERS, _IS_OF_ADAPTER)


def entry_of(row: Row[Any]) -> Entry:
    """The entry in a row of VERSION_ROWS."""
    return Entry(version_of(row), row.revision, row.public, row.deleted_at)


def listed_of(row: Row[Any], name: str) -> Listed:
    """The version in a row of LISTED_ROWS, under this name."""
    description = Description(
        name=name,
        version=row.version,
        created_at=row.created_at,
        recipe=_recipe(row.recipe),
        factors=row.factors,
        dtype=row.dtype,
        size=row.size,
        sha256=row.sha256,
        metadata=_metadata(row.metadata),
    )
    return Listed(description, row.public, row.deleted_at)


def version_of(row: Row[Any]) -> StoredVersion:
    """The version in a row of VERSION_ROWS."""
    adapter = Adapter(
        recipe=_recipe(row.recipe), factors=sys.intern(row.factors), dtype=row.dtype, data=bytes(row.data)
    )
    return StoredVersion(row.name, row.version, row.created_at, adapter, row.sha256, _metadata(row.metadata))


def version_values(adapter_id: int, stored: StoredVersion) -> dict[str, Any]:
    """The row of ADAPTER_VERSIONS that `version_of` reads back."""
    adapter = stored.adapter
    return {
        "adapter_id": adapter_id,
        "version": stored.version,
        "created_at": stored.created_at,
        "recipe": _recipe_json(adapter.recipe),
        "factors": adapter.factors,
        "dtype": adapter.dtype,
        "data": adapter.data,
        "sha256": stored.sha256,
        "metadata": json.dumps(dict(stored.metadata)),
    }


def _metadata(text: str) -> Mapping[str, str]:
    metadata: Mapping[str, str] = _NO_METADATA if text == "{}" else json.loads(text)
    return metadata


@lru_cache(maxsize=SHARED_RECIPES)
def _recipe(text: str) -> Recipe:
    return Recipe.from_dict(json.loads(text))


@lru_cache(maxsize=SHARED_RECIPES)
def _recipe_json(recipe: Recipe) -> str:
    return recipe.canonical_json()
