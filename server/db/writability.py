"""Whether the database takes writes: asked now and then by a task of its own, so that a probe or scrape never waits.

Design decision: a gateway is ready once the database has taken a write since it started, and stays so while it can be
read. One whose database is wrong (permissions, another schema, a read-only disk) gets no requests at all; a full disk
does not take inference away from all gateways at once, which answer without a write and keep usage in memory. That
writes fail is a metric with an alert.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import structlog
from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy.exc import SQLAlchemyError

from server.core.background import repeating
from server.core.errors import ApiError
from server.db.database import Database

EVERY_S = 5.0
# A write that takes longer counts as one that was not taken.
LATE_S = 10.0


class Writability:
    """Of one app's database. `proven`: it has taken a write since the app was made."""

    def __init__(self, database: Database, registry: CollectorRegistry) -> None:
        self.proven = False
        self._database = database
        self._gauge = Gauge(
            "tinylora_database_writable",
            "1 when the database took the last write that was tried, else 0.",
            registry=registry,
        )
        self._asking: asyncio.Task[bool] | None = None

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Asks now and then while the block runs."""
        return repeating(self._watch, first_s=0, every_s=EVERY_S)

    async def takes_writes(self, within_s: float) -> bool:
        """Whether the database takes a write within so many seconds.

        One is tried at a time, in one thread: who asks meanwhile waits for the same.
        """
        asking = self._asking
        if asking is None or asking.done():
            asking = self._asking = asyncio.create_task(asyncio.to_thread(self._try))
        done, _ = await asyncio.wait({asking}, timeout=within_s)
        taken = bool(done) and asking.result()
        self._gauge.set(taken)
        self.proven = self.proven or taken
        return taken

    async def _watch(self, _ended: asyncio.Event) -> None:
        await self.takes_writes(LATE_S)

    def _try(self) -> bool:
        try:
            self._database.check_writable()
        except (ApiError, SQLAlchemyError) as error:
            structlog.get_logger().warning("the database takes no writes", error=str(error))
            return False
        return True
