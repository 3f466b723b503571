"""The registry: every tenant's adapters, in immutable versions, kept in the database.

Design decision: nothing remembered ends by time, and gateways send each other no messages. What is remembered of an
adapter has the revision at which it was read, and every request reads the current revision, one row by an index. So any
number of gateways may write, each serves what was committed last, and a vector is read from the database once after
each change of its adapter.

Only `look_up` and `resolve` are for the event loop; the rest blocks on the database. Writes are functions of a
connection, run by `server.api.writes`: creation.py, deletion.py, aliases.py.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row
from starlette.concurrency import run_in_threadpool

from server.core.names import Reference
from server.db.database import Database
from server.db.point_reads import PointReads
from server.db.tables import ADAPTER_METADATA, ADAPTER_VERSIONS, ADAPTERS, TENANTS
from server.registry.cache import ResolveCache
from server.registry.rows import adapter_not_found, visible_row
from server.registry.state import AdapterState, read_state
from server.registry.versions import LISTED_ROWS, VERSION_ROWS, Entry, Page, StoredVersion, listed_of, version_of

MAX_CACHED_BYTES = 128 * 2**20
AFTER_NAMES = "\x7f"  # sorts behind every character that a name may have
NO_TENANT = -1
_LATEST_ROWS = LISTED_ROWS.where(ADAPTER_VERSIONS.c.version == ADAPTERS.c.latest_version)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A version that was not deleted when its adapter had this revision."""

    stored: StoredVersion
    revision: int


class Registry:
    """Adapters by tenant and name. Safe to use from any thread, and by several processes at once."""

    def __init__(
        self,
        database: Database,
        reads: PointReads,
        *,
        cache_size: int = 65_536,
        max_cached_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self._database = database
        self._reads = reads
        self._states: ResolveCache[int, AdapterState] = ResolveCache(cache_size)
        self._versions: ResolveCache[tuple[int, int], _Kept] = ResolveCache(
            cache_size, max_bytes=max_cached_bytes, size_of=_content_bytes
        )

    async def resolve(self, tenant_id: int, reference: Reference, *, pick: float | None = None) -> StoredVersion:
        """The version that `reference` of this tenant stands for now. NotFound when there is none.

        `pick` in [0, 1) chooses among the versions of a weighted alias; None is the one with most weight.
        """
        entry, _ = await self.look_up(tenant_id, reference, pick=pick)
        return entry.stored

    async def look_up(
        self, tenant_id: int, reference: Reference, *, pick: float | None = None, param: str = "name"
    ) -> tuple[Entry, bool]:
        """As `resolve`, with what may change about the adapter; and whether all of it was in memory.

        `param` is where the request names the adapter, which NotFound says.
        """
        owner = tenant_id if reference.tenant is None else await self._owner(reference.tenant, tenant_id)
        found = await self._reads.adapter(owner, reference.name)
        # Before anything more is read: how long it takes must not tell that there is such an adapter.
        if found is None or (owner != tenant_id and not found.public):
            raise adapter_not_found(reference, param)
        known = self._remembered(found.id, found.revision, reference, pick)
        state, stored = known if known else await run_in_threadpool(self._load, found.id, reference, pick)
        if stored is None or (owner != tenant_id and not state.public):
            raise adapter_not_found(reference, param)
        stored = stored.named(reference.name if owner == tenant_id else reference.qualified_name)
        return Entry(stored, state.revision, state.public), known is not None

    async def _owner(self, name: str, asker: int) -> int:
        """The id of the tenant called `name`; NO_TENANT when it is disabled, unless it asks itself."""
        tenant = await self._reads.tenant(name)
        if tenant is None or (tenant.disabled_at is not None and tenant.id != asker):
            return NO_TENANT
        return tenant.id

    def _remembered(
        self, adapter_id: int, revision: int, reference: Reference, pick: float | None
    ) -> tuple[AdapterState, StoredVersion | None] | None:
        """What was read at this revision. At no other, be it higher: the database may have been restored since."""
        state = self._states.get(adapter_id)
        if state is None or state.revision != revision:
            return None
        version = state.version_of(reference, pick)
        kept = None if version is None else self._versions.get((adapter_id, version))
        return None if kept is None or kept.revision != revision else (state, kept.stored)

    def _load(
        self, adapter_id: int, reference: Reference, pick: float | None
    ) -> tuple[AdapterState, StoredVersion | None]:
        """Read and remember; None when the reference stands for nothing."""
        with self._database.read() as connection:
            state = read_state(connection, adapter_id)
            version = state.version_of(reference, pick)
            rows = VERSION_ROWS.where(ADAPTERS.c.id == adapter_id, ADAPTER_VERSIONS.c.version == version)
            found = connection.execute(rows.where(ADAPTER_VERSIONS.c.deleted_at.is_(None))).one_or_none()
        stored = None if found is None else version_of(found)
        self._states.put(adapter_id, state)
        if stored is not None:
            self._versions.put((adapter_id, stored.version), _Kept(stored, state.revision))
        return state, stored

    def list(
        self,
        tenant_id: int,
        *,
        after: str = "",
        before: str | None = None,
        limit: int = 20,
        prefix: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Page:
        """The latest version of each of the tenant's adapters, by name, beginning behind the name `after`; or the last
        ones before the name `before`, where `has_more` is of those before them.

        Only names that begin with `prefix`, and adapters whose latest version has all of `metadata`; of which the first
        pair is found by an index and the others are looked up, so the rarest is best first.
        """
        wanted = dict(metadata or {})
        name, rows = ADAPTERS.c.name, _LATEST_ROWS
        if wanted:
            key = next(iter(wanted))
            name = ADAPTER_METADATA.c.name
            rows = rows.join(ADAPTER_METADATA, ADAPTER_METADATA.c.adapter_id == ADAPTERS.c.id).where(
                ADAPTER_METADATA.c.tenant_id == tenant_id,
                ADAPTER_METADATA.c.key == key,
                ADAPTER_METADATA.c.value == wanted.pop(key),
            )
        else:
            rows = rows.where(ADAPTERS.c.tenant_id == tenant_id)
        if before is not None:
            rows = rows.where(name < before)
        # One lower bound: of two, SQLite would use either.
        rows = rows.where(name > after if after >= prefix else name >= prefix, *_beginning(name, prefix))
        order = name if before is None else name.desc()
        page = self._page(_having(rows, wanted).order_by(order), limit, lambda row: str(row.name))
        return page if before is None else Page(page.items[::-1], page.has_more)

    def list_public(
        self,
        *,
        after: tuple[str, str] | None = None,
        limit: int = 20,
        prefix: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> Page:
        """As `list`, of all tenants' public adapters, by tenant, oldest first, beginning behind (tenant, name)."""
        rows = (
            _LATEST_ROWS.add_columns(TENANTS.c.name.label("tenant"))
            .join(TENANTS, TENANTS.c.id == ADAPTERS.c.tenant_id)
            .where(ADAPTERS.c.public, TENANTS.c.disabled_at.is_(None), *_beginning(ADAPTERS.c.name, prefix))
        )
        if prefix:
            rows = rows.where(ADAPTERS.c.name >= prefix)
        if after is not None:
            tenant = sa.select(TENANTS.c.id).where(TENANTS.c.name == after[0]).scalar_subquery()
            rows = rows.where(sa.tuple_(ADAPTERS.c.tenant_id, ADAPTERS.c.name) > sa.tuple_(tenant, after[1]))
        rows = _having(rows, metadata or {}).order_by(ADAPTERS.c.tenant_id, ADAPTERS.c.name)
        return self._page(rows, limit, lambda row: f"~{row.tenant}/{row.name}")

    def versions(
        self, tenant_id: int, reference: Reference, *, before: int | None = None, limit: int = 20, deleted: bool = False
    ) -> Page:
        """The versions below `before` of one adapter, newest first; or, its owner only, the deleted ones.

        NotFound when there is no such adapter, or it is deleted and its deleted versions are not asked for.
        """
        with self._database.read() as connection:
            row = visible_row(connection, tenant_id, reference)
            if (row.tenant_id != tenant_id) if deleted else row.latest_version is None:
                raise adapter_not_found(reference)
        is_deleted = ADAPTER_VERSIONS.c.deleted_at.is_not(None)
        rows = LISTED_ROWS.where(ADAPTERS.c.id == row.id, is_deleted if deleted else ~is_deleted)
        if before is not None:
            rows = rows.where(ADAPTER_VERSIONS.c.version < before)
        name = reference.name if row.tenant_id == tenant_id else reference.qualified_name
        return self._page(rows.order_by(ADAPTER_VERSIONS.c.version.desc()), limit, lambda _: name)

    def _page(self, rows: sa.Select[Any], limit: int, name_of: Callable[[Row[Any]], str]) -> Page:
        with self._database.read() as connection:
            found = connection.execute(rows.limit(limit + 1)).all()
        return Page(tuple(listed_of(row, name_of(row)) for row in found[:limit]), has_more=len(found) > limit)


def _beginning(name: sa.ColumnElement[str], prefix: str) -> builtins.list[sa.ColumnElement[bool]]:
    """The upper end of the names with this prefix: a range is found by every index, LIKE's by some."""
    return [name < prefix + AFTER_NAMES] if prefix else []


def _having(rows: sa.Select[Any], metadata: Mapping[str, str]) -> sa.Select[Any]:
    for key, value in metadata.items():
        pair = ADAPTER_METADATA.alias()
        rows = rows.where(
            sa.exists().where(pair.c.adapter_id == ADAPTERS.c.id, pair.c.key == key, pair.c.value == value)
        )
    return rows


def _content_bytes(kept: _Kept) -> int:
    metadata = kept.stored.metadata
    return len(kept.stored.adapter.data) + sum(len(key) + len(value) for key, value in metadata.items())
