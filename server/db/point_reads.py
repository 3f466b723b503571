"""The reads that every request makes: an adapter's revision, an API key, a tenant. Well under a millisecond each.

Design decision: no cache and no replica. An answer is at least as new as every write that any gateway had acknowledged
when the read began, so a revoked key or a moved alias holds everywhere at once. (A statement sees all that was
committed before it started; PostgreSQL's synchronous_commit does not change that.)

On SQLite a read is one row by an index and takes microseconds on the event loop, less than a thread would. PostgreSQL's
are in coalesced_reads.py.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from server.db.coalesced_reads import CoalescedReads
from server.db.database import Database, unavailable

# SQLite is only ever busy for readers while a process that was killed is being cleaned up after.
SQLITE_BUSY_TIMEOUT_S = 1.0

_ADAPTER = "SELECT id, revision, public FROM adapters WHERE tenant_id = {0} AND name = {1}"
# Without a limit on months nobody asks what was used in one.
_TENANT_COLUMNS = """t.id, t.name, t.disabled_at, t.max_adapters, t.requests_per_minute, t.tokens_per_minute,
       t.max_concurrent_requests, t.weight, t.priority_requests_per_minute, t.tokens_per_month,
       CASE WHEN t.tokens_per_month IS NULL THEN NULL ELSE COALESCE(
           (SELECT m.tokens FROM usage_months m WHERE m.tenant_id = t.id AND m.month = {1}), 0) END AS month_tokens"""
_TENANT = f"SELECT {_TENANT_COLUMNS} FROM tenants t WHERE t.name = {{0}}"
_KEY = f"""
SELECT k.id, k.scopes, k.expires_at, k.revoked_at, k.requests_per_minute, k.tokens_per_minute,
       k.max_concurrent_requests, {_TENANT_COLUMNS}
FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.hash = {{0}}
"""


@dataclass(frozen=True, slots=True)
class AdapterRow:
    """What changes about an adapter raises its revision; `public` is whether other tenants may use it."""

    id: int
    revision: int
    public: bool


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant; see the tables for what the columns mean."""

    id: int
    name: str
    disabled_at: int | None
    max_adapters: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None
    weight: float
    priority_requests_per_minute: int | None = None
    tokens_per_month: int | None = None
    month_tokens: int | None = None  # used in the month that is asked about; None where there is no limit


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key with its tenant; see the tables for what the columns mean."""

    id: str
    scopes: str
    expires_at: int | None
    revoked_at: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_concurrent_requests: int | None
    tenant: TenantRow


class PointReads(ABC):
    """Reads of single rows, from any event loop. Raises Unavailable (503) when the database does not answer."""

    async def adapter(self, tenant_id: int, name: str) -> AdapterRow | None:
        """The tenant's adapter `name`, deleted or not; None when there never was one."""
        row = await self._row(_ADAPTER, tenant_id, name) if _is_stored(name) else None
        return None if row is None else AdapterRow(row[0], row[1], bool(row[2]))

    async def key(self, digest: str, month: int) -> KeyRow | None:
        """The key with this SHA-256, in hexadecimal; its tenant with the tokens of the month that begins then."""
        row = await self._row(_KEY, digest, month) if _is_stored(digest) else None
        return None if row is None else KeyRow(*(*row[:7], TenantRow(*row[7:])))

    async def tenant(self, name: str, month: int = 0) -> TenantRow | None:
        """The tenant called `name`, with the tokens of the month that begins then; for whom they matter."""
        row = await self._row(_TENANT, name, month) if _is_stored(name) else None
        return None if row is None else TenantRow(*row)

    @abstractmethod
    async def close(self) -> None:
        """Close every connection; the object cannot be used afterwards."""

    @abstractmethod
    async def _row(self, statement: str, *parameters: int | str) -> Any:
        """The one row, or None, of `statement`, which has {0}, {1} where the parameters go."""


class SqlitePointReads(PointReads):
    """One connection of its own, used by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(
            path, timeout=SQLITE_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        # Not opened as read-only: it must be able to repair what a killed process left.
        self._connection.execute("PRAGMA query_only=ON")
        self._lock = threading.Lock()

    async def _row(self, statement: str, *parameters: int | str) -> Any:
        with self._lock:
            try:
                # All rows, though there is one at most: the read ends, and with it its view, when no row is left.
                rows = self._connection.execute(statement.format("?1", "?2"), parameters).fetchall()
            except sqlite3.OperationalError as error:
                raise unavailable(error) from error
        return rows[0] if rows else None

    async def close(self) -> None:
        with self._lock:
            self._connection.close()


class PostgresqlPointReads(PointReads):
    """A few connections for each event loop, since they belong to the loop that opened them."""

    def __init__(self, database: Database) -> None:
        self._parameters = database.connection_parameters()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, CoalescedReads] = WeakKeyDictionary()
        self._lock = threading.Lock()

    async def _row(self, statement: str, *parameters: int | str) -> Any:
        return await self._reads().row(statement, parameters)

    def _reads(self) -> CoalescedReads:
        loop = asyncio.get_running_loop()
        with self._lock:
            reads = self._by_loop.get(loop)
            if reads is None:
                reads = self._by_loop[loop] = CoalescedReads(self._parameters)
            return reads

    async def close(self) -> None:
        with self._lock:
            for reads in self._by_loop.values():
                reads.close()
            self._by_loop.clear()


def open_point_reads(database: Database) -> PointReads:
    """Point reads of `database`."""
    if not database.is_sqlite:
        return PostgresqlPointReads(database)
    assert database.url.database is not None
    return SqlitePointReads(database.url.database)


def _is_stored(text: str) -> bool:
    """Whether a name or digest like this can be in the database. Drivers refuse others, with those read beside them."""
    return text.isascii() and "\0" not in text
