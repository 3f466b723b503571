"""What every tenant, key and adapter used, by the hour: counted in memory, added to the table `usage` at intervals, and
to what the tenant used in the month.

Differences are added, by ON CONFLICT DO UPDATE, so any number of gateways can add to the same rows. Running requests
are counted up to the moment: a kill -9 loses at most the last interval, any other end loses nothing. What could not be
written is kept for the next batch. (If the connection to PostgreSQL breaks after a commit and before its confirmation,
that one batch is counted twice.)

A request counts once the engine has counted tokens for it, however it ended; one that was refused does not. Its tokens
count in the hour in which they are read from it here.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client import Counter
from sqlalchemy.engine import Connection

from server.core.clock import Clock, now
from server.core.errors import ApiError
from server.core.months import month_start
from server.core.names import BASE_LABEL, INLINE_LABEL, MIX_LABEL, OTHER
from server.core.principal import Principal
from server.core.request_state import RequestUsage
from server.db.database import Database
from server.db.tables import USAGE, USAGE_MONTHS
from server.engine.protocol import ServedAdapter

HOUR_S = 3600
# Rows that wait for the database. Beyond so many, usage is added up by tenant only.
MAX_ROWS = 100_000
# No flush takes as long while the database works.
LATE_S = 30.0
COLUMNS = ("requests", "prompt_tokens", "completion_tokens")
MAX_ADAPTER_CHARS: int = USAGE.c.adapter.type.length  # type: ignore[attr-defined]

# hour, tenant_id, key_id, adapter; requests, prompt_tokens, completion_tokens
RowKey = tuple[int, int, str, str]
Counts = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class _Running:
    """A running request, and how much of its usage has been counted."""

    tenant_id: int
    key_id: str
    adapter: str
    usage: RequestUsage
    counted: Counts = (0, 0, 0)

    def uncounted(self) -> Counts:
        """What it used since the last call."""
        prompt_tokens, completion_tokens = self.usage.prompt_tokens, self.usage.completion_tokens
        now = (int(prompt_tokens + completion_tokens > 0), prompt_tokens, completion_tokens)
        new = tuple(total - counted for total, counted in zip(now, self.counted, strict=True))
        self.counted = now
        return new  # type: ignore[return-value]


class UsageMeter:
    """Counts for one gateway. Safe to use from any thread. `failures` counts batches that could not be written."""

    def __init__(
        self,
        database: Database,
        failures: Counter,
        *,
        max_rows: int = MAX_ROWS,
        clock: Clock = now,
    ) -> None:
        self._database = database
        self._failures = failures
        self._max_rows = max_rows
        self._clock = clock
        self._running: set[_Running] = set()
        self._rows: dict[RowKey, Counts] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    @contextmanager
    def counted(self, principal: Principal, served: ServedAdapter | None, usage: RequestUsage) -> Iterator[None]:
        """Counts what the block adds to `usage`, while it runs and when it ends."""
        running = _Running(principal.tenant.id, principal.key_id or "", adapter_of(served), usage)
        with self._lock:
            self._running.add(running)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(running)
                self._count(running)

    def flush(self) -> None:
        """Write what is not written yet. Blocks. Raises what the database raises; all is then kept for next time."""
        with self._flushing:
            with self._lock:
                for running in self._running:
                    self._count(running)
                batch, self._rows = self._rows, {}
            if not batch:
                return
            try:
                self._database.transact(lambda connection: self._add(connection, batch))
            except BaseException:
                with self._lock:
                    for key, counts in batch.items():
                        self._increase(key, counts)
                raise

    @asynccontextmanager
    async def flushing(self, every_s: float, late_s: float = LATE_S) -> AsyncIterator[None]:
        """Flushes every `every_s` seconds while the block runs, and when it ends. One that takes longer than `late_s`
        counts as a failure, and again each time that it has taken as long."""
        ended = asyncio.Event()

        async def flush_until_ended() -> None:
            while not ended.is_set():
                try:
                    await asyncio.wait_for(ended.wait(), every_s)
                except TimeoutError:
                    await self._flush_in_thread(late_s)
            # The flush before it may have begun before the block ended.
            await self._flush_in_thread(late_s)

        task = asyncio.create_task(flush_until_ended())
        try:
            yield
        finally:
            # Not cancelled: a batch that is being written would go on in its thread, and nobody would see its result.
            ended.set()
            await task

    async def _flush_in_thread(self, late_s: float) -> None:
        began = monotonic()
        flush = asyncio.ensure_future(asyncio.to_thread(self._try_to_flush))
        while not (await asyncio.wait({flush}, timeout=late_s))[0]:
            self._failures.inc()
            self._log.error("usage is still being written: the database hangs", for_s=round(monotonic() - began))
        await flush

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._failures.inc()
            with self._lock:
                waiting = len(self._rows)
            self._log.error("usage not written, kept for the next time", rows=waiting, error=str(error))

    def _count(self, running: _Running) -> None:
        counts = running.uncounted()
        if any(counts):
            hour = int(self._clock()) // HOUR_S * HOUR_S
            self._increase((hour, running.tenant_id, running.key_id, running.adapter), counts)

    def _increase(self, key: RowKey, counts: Counts) -> None:
        if key not in self._rows and len(self._rows) >= self._max_rows:
            hour, tenant_id, _, _ = key
            key = (hour, tenant_id, "", OTHER)
        known = self._rows.get(key, (0, 0, 0))
        self._rows[key] = (known[0] + counts[0], known[1] + counts[1], known[2] + counts[2])

    def _add(self, connection: Connection, batch: dict[RowKey, Counts]) -> None:
        insert = self._database.insert(USAGE)
        added = {name: USAGE.c[name] + insert.excluded[name] for name in COLUMNS}
        statement = insert.on_conflict_do_update(index_elements=list(USAGE.primary_key), set_=added)
        # All gateways write in one order, so that they wait for each other's rows and cannot deadlock.
        connection.execute(statement, [_row(key, batch[key]) for key in sorted(batch)])
        insert = self._database.insert(USAGE_MONTHS)
        more = {"tokens": USAGE_MONTHS.c.tokens + insert.excluded.tokens}
        statement = insert.on_conflict_do_update(index_elements=list(USAGE_MONTHS.primary_key), set_=more)
        connection.execute(statement, _months(batch))


def adapter_of(served: ServedAdapter | None) -> str:
    """What usage calls an adapter: "acme/math@3", "base", "inline" or "mix"."""
    if served is None:
        return BASE_LABEL
    return served.label if served.label in (INLINE_LABEL, MIX_LABEL) else served.name[:MAX_ADAPTER_CHARS]


def _months(batch: dict[RowKey, Counts]) -> list[dict[str, int]]:
    tokens: dict[tuple[int, int], int] = defaultdict(int)
    for (hour, tenant_id, _, _), (_, prompt_tokens, completion_tokens) in batch.items():
        tokens[tenant_id, month_start(hour)] += prompt_tokens + completion_tokens
    return [{"tenant_id": tenant, "month": month, "tokens": tokens[tenant, month]} for tenant, month in sorted(tokens)]


def _row(key: RowKey, counts: Counts) -> dict[str, Any]:
    return dict(zip(("hour", "tenant_id", "key_id", "adapter", *COLUMNS), (*key, *counts), strict=True))
