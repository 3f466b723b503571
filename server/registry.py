"""The registry: named adapters in immutable versions, kept in the database.

Design decision: a version is written once and never changed. Uploading makes the next one, deleting removes rows, and a
number is never given twice; so whatever a version's name stands for can be cached without an expiry.

Methods block on the database: call them from worker threads. Only `cached` is for the event loop.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Row

from adapters.adapter import Adapter
from adapters.recipe import Recipe
from server.database import ADAPTER_VERSIONS, ADAPTERS, Database
from server.errors import NotFound
from server.names import Reference
from server.resolve_cache import ResolveCache


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a registered adapter. `created_at` is in seconds since 1970, `sha256` is of the vector's bytes."""

    name: str
    version: int
    created_at: int
    adapter: Adapter
    sha256: str
    metadata: Mapping[str, str]

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a listing; `has_more` when another one follows it."""

    items: tuple[StoredVersion, ...]
    has_more: bool


_VERSION_ROWS = sa.select(ADAPTERS.c.name, ADAPTER_VERSIONS).join_from(
    ADAPTER_VERSIONS, ADAPTERS, ADAPTERS.c.id == ADAPTER_VERSIONS.c.adapter_id
)
_LATEST_ROWS = _VERSION_ROWS.where(ADAPTER_VERSIONS.c.version == ADAPTERS.c.latest_version)


class Registry:
    """Adapters by name. Safe to use from any thread, and by several processes at once."""

    def __init__(self, database_url: str, *, cache_size: int = 65_536, busy_timeout_s: float = 10.0) -> None:
        self._database = Database(database_url, busy_timeout_s=busy_timeout_s)
        self._cache: ResolveCache[StoredVersion] = ResolveCache(cache_size)

    def create(self, name: str, adapter: Adapter, metadata: Mapping[str, str] | None = None) -> StoredVersion:
        """Store `adapter` as the next version of `name`, durably."""
        with self._database.write() as connection:
            bump = (
                ADAPTERS.update()
                .where(ADAPTERS.c.name == name)
                .values(last_version=ADAPTERS.c.last_version + 1, latest_version=ADAPTERS.c.last_version + 1)
                .returning(ADAPTERS.c.id, ADAPTERS.c.last_version)
            )
            begin = (
                ADAPTERS.insert()
                .values(name=name, last_version=1, latest_version=1)
                .returning(ADAPTERS.c.id, ADAPTERS.c.last_version)
            )
            adapter_id, version = connection.execute(bump).one_or_none() or connection.execute(begin).one()
            stored = StoredVersion(
                name=name,
                version=version,
                created_at=int(time.time()),
                adapter=adapter,
                sha256=hashlib.sha256(adapter.data).hexdigest(),
                metadata=dict(metadata or {}),
            )
            connection.execute(
                ADAPTER_VERSIONS.insert().values(
                    adapter_id=adapter_id,
                    version=version,
                    created_at=stored.created_at,
                    recipe=adapter.recipe.canonical_json(),
                    factors=adapter.factors,
                    dtype=adapter.dtype,
                    data=adapter.data,
                    sha256=stored.sha256,
                    metadata=json.dumps(stored.metadata),
                )
            )
        self._cache.forget(Reference(name))
        return stored

    def cached(self, reference: Reference) -> StoredVersion | None:
        """`resolve` without waiting: None when the database has to be asked."""
        data_version = self._database.data_version(wait=False)
        if data_version is None:
            return None
        self._cache.sync(data_version)
        return self._cache.get(reference)

    def resolve(self, reference: Reference) -> StoredVersion:
        """The version that `reference` stands for now. NotFound when there is none."""
        # What is read below is at least as new as this, so an entry can be outdated only by a change yet to be seen.
        data_version = self._database.data_version(wait=True)
        generation = None if data_version is None else self._cache.sync(data_version)
        rows = _LATEST_ROWS if reference.version is None else _VERSION_ROWS
        if reference.version is not None:
            rows = rows.where(ADAPTER_VERSIONS.c.version == reference.version)
        with self._database.read() as connection:
            row = connection.execute(rows.where(ADAPTERS.c.name == reference.name)).one_or_none()
        if row is None:
            raise adapter_not_found(reference)
        stored = _stored_version(row)
        if generation is not None:
            self._cache.put(reference, stored, generation)
        return stored

    def list(self, *, after: str = "", limit: int = 20) -> Page:
        """The latest version of every adapter, by name, beginning behind the name `after` (which need not exist)."""
        rows = _LATEST_ROWS.where(ADAPTERS.c.name > after).order_by(ADAPTERS.c.name)
        return self._page(rows, limit)

    def versions(self, name: str, *, before: int | None = None, limit: int = 20) -> Page:
        """The versions of `name` below `before`, newest first. NotFound when `name` has no versions at all."""
        rows = _VERSION_ROWS.where(ADAPTERS.c.name == name).order_by(ADAPTER_VERSIONS.c.version.desc())
        page = self._page(rows if before is None else rows.where(ADAPTER_VERSIONS.c.version < before), limit)
        if not page.items:
            self.resolve(Reference(name))
        return page

    def delete(self, reference: Reference) -> None:
        """Remove one version, or all of them. NotFound when there is nothing to remove."""
        with self._database.write() as connection:
            adapter_id = connection.execute(
                sa.select(ADAPTERS.c.id).where(ADAPTERS.c.name == reference.name)
            ).scalar_one_or_none()
            doomed = ADAPTER_VERSIONS.delete().where(ADAPTER_VERSIONS.c.adapter_id == adapter_id)
            if reference.version is not None:
                doomed = doomed.where(ADAPTER_VERSIONS.c.version == reference.version)
            if adapter_id is None or connection.execute(doomed).rowcount == 0:
                raise adapter_not_found(reference)
            latest = (
                sa.select(sa.func.max(ADAPTER_VERSIONS.c.version))
                .where(ADAPTER_VERSIONS.c.adapter_id == adapter_id)
                .scalar_subquery()
            )
            connection.execute(ADAPTERS.update().where(ADAPTERS.c.id == adapter_id).values(latest_version=latest))
        self._cache.clear()

    def check_writable(self) -> None:
        """Raises SQLAlchemyError when the database cannot be written."""
        self._database.check_writable()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _page(self, rows: sa.Select[tuple[object, ...]], limit: int) -> Page:
        with self._database.read() as connection:
            found = [_stored_version(row) for row in connection.execute(rows.limit(limit + 1))]
        return Page(tuple(found[:limit]), has_more=len(found) > limit)


def adapter_not_found(reference: Reference, param: str = "name") -> NotFound:
    """The answer to a reference that stands for nothing, whether it never did or was deleted."""
    return NotFound(
        f"There is no adapter {str(reference)!r}; GET /v1/adapters lists those there are.",
        param=param,
        code="adapter_not_found",
    )


def _stored_version(row: Row[tuple[object, ...]]) -> StoredVersion:
    values = row._mapping
    return StoredVersion(
        name=values["name"],
        version=values["version"],
        created_at=values["created_at"],
        adapter=Adapter(
            recipe=Recipe.from_dict(json.loads(values["recipe"])),
            factors=values["factors"],
            dtype=values["dtype"],
            data=values["data"],
        ),
        sha256=values["sha256"],
        metadata=json.loads(values["metadata"]),
    )
