"""Versions of adapters as the registry hands them out, and how they are read from rows.

Design decision: many versions are in memory at once, so what they have in common (recipes, digests of factors, empty
metadata) is one object for all of them.
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

from adapters.adapter import Adapter
from adapters.recipe import Recipe
from server.tables import ADAPTER_VERSIONS, ADAPTERS

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

    def named(self, name: str) -> StoredVersion:
        """The same version under another name."""
        return self if name == self.name else replace(self, name=name)


@dataclass(frozen=True, slots=True)
class Entry:
    """A version with what may change about it and its adapter. `deleted_at` is in seconds since 1970."""

    stored: StoredVersion
    revision: int
    public: bool
    deleted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a listing; `has_more` when another one follows it."""

    items: tuple[Entry, ...]
    has_more: bool


# Everything an Entry is made of.
VERSION_ROWS = sa.select(ADAPTERS.c.name, ADAPTERS.c.revision, ADAPTERS.c.public, ADAPTER_VERSIONS).join_from(
    ADAPTER_VERSIONS, ADAPTERS, ADAPTERS.c.id == ADAPTER_VERSIONS.c.adapter_id
)


def entry_of(row: Row[Any], name: str | None = None) -> Entry:
    """The entry in a row of VERSION_ROWS, under its own or another name."""
    stored = version_of(row)
    return Entry(stored if name is None else stored.named(name), row.revision, row.public, row.deleted_at)


def version_of(row: Row[Any]) -> StoredVersion:
    """The version in a row of VERSION_ROWS."""
    adapter = Adapter(
        recipe=_recipe(row.recipe), factors=sys.intern(row.factors), dtype=row.dtype, data=bytes(row.data)
    )
    metadata = _NO_METADATA if row.metadata == "{}" else json.loads(row.metadata)
    return StoredVersion(row.name, row.version, row.created_at, adapter, row.sha256, metadata)


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


@lru_cache(maxsize=SHARED_RECIPES)
def _recipe(text: str) -> Recipe:
    return Recipe.from_dict(json.loads(text))


@lru_cache(maxsize=SHARED_RECIPES)
def _recipe_json(recipe: Recipe) -> str:
    return recipe.canonical_json()
