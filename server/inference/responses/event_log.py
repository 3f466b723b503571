"""The events of responses that run in the background of this gateway, on their way into the database.

Events wait here for a moment, and are stored together, those of all responses in one transaction: a few writes a
second, however many tokens there are. Whoever streams a response reads what is stored, here as on every other gateway,
and is told here when there is more.

Design decision: not sent from memory to clients of this gateway, which would be a quarter of a second sooner. After
this gateway was killed they would have seen events that nobody has, and could not go on from them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
import structlog

from server.core.errors import ApiError
from server.inference.responses.event_rows import EventBatch, sent_event
from server.inference.responses.store import ResponseStore

WRITE_S = 0.25
# What may wait for a database that does not answer, of one response.
MAX_WAITING_BYTES = 4 << 20


class EventLog:
    """The events of one response. `stored` is set, and replaced, whenever there are more to read."""

    def __init__(self, tenant_id: int, response_id: str, first: int) -> None:
        self.stored = asyncio.Event()
        self.waiting_bytes = 0
        self._tenant_id = tenant_id
        self._response_id = response_id
        self._first = first
        self._waiting: list[bytes] = []

    def add(self, sent: bytes) -> None:
        """Take what the engine has sent, whole events; the first of them, and what is none, are left out."""
        for part in sent.split(b"\n\n"):
            event = _parsed(part)
            if event is not None and event.get("type") not in (None, "response.created"):
                text = sent_event({**event, "sequence_number": self._first + len(self._waiting)})
                self._waiting.append(text)
                self.waiting_bytes += len(text)

    def batch(self) -> EventBatch:
        """What waits, which may be nothing."""
        return EventBatch(self._tenant_id, self._response_id, self._first, tuple(self._waiting))

    def written(self, batch: EventBatch) -> None:
        """`batch` is stored, or will not be."""
        del self._waiting[: len(batch.events)]
        self._first += len(batch.events)
        self.waiting_bytes -= sum(map(len, batch.events))
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for `stored`."""
        self.stored.set()
        self.stored = asyncio.Event()


class EventLogs:
    """Those of one gateway, by response. For one event loop.

    `lost` is called with the id of a response whose events are not stored any more: it has ended, or is too long.
    """

    def __init__(self, store: ResponseStore, lost: Callable[[str], None]) -> None:
        self._store = store
        self._lost = lost
        self._logs: dict[str, EventLog] = {}
        self._writing = asyncio.Lock()
        self._writer: asyncio.Task[None] | None = None
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def open(self, tenant_id: int, response_id: str, first: int) -> None:
        """Events of this response will come, from number `first` on."""
        self._logs[response_id] = EventLog(tenant_id, response_id, first)

    def add(self, response_id: str, sent: bytes) -> None:
        """Have what the engine has sent stored soon, if the response is open."""
        log = self._logs.get(response_id)
        if log is None:
            return
        log.add(sent)
        if log.waiting_bytes > MAX_WAITING_BYTES:
            self._lost(response_id)
        elif self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="events of responses")

    def stored(self, response_id: str) -> asyncio.Event | None:
        """Set when there is more of a stream to read; None when it is none of this gateway's."""
        log = self._logs.get(response_id)
        return None if log is None else log.stored

    async def end(self, tenant_id: int, response_id: str, ended: Mapping[str, Any]) -> None:
        """End a response as `ResponseStore.end`, with what waits of its events. It is closed once that is stored."""
        log = self._logs.get(response_id)
        if log is None:
            await self._store.end(tenant_id, response_id, ended)
            return
        async with self._writing:
            await self._store.end(tenant_id, response_id, ended, log.batch())
            self.close(response_id)

    def close(self, response_id: str) -> None:
        """No more events of this response are taken."""
        log = self._logs.pop(response_id, None)
        if log is not None:
            log.tell()

    async def _write(self) -> None:
        try:
            while True:
                await asyncio.sleep(WRITE_S)
                async with self._writing:
                    waiting = [log for log in self._logs.values() if log.waiting_bytes]
                    if not waiting:
                        return
                    await self._write_those(waiting)
        finally:
            self._writer = None

    async def _write_those(self, logs: list[EventLog]) -> None:
        batches = [log.batch() for log in logs]
        try:
            running = await self._store.append(batches)
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._log.error("events of responses not stored, tried again soon", error=str(error))
            return
        for log, batch in zip(logs, batches, strict=True):
            log.written(batch)
            if batch.response_id not in running:
                self._lost(batch.response_id)


def _parsed(part: bytes) -> dict[str, Any] | None:
    """The event in a part of a stream; None for what is none, as `[DONE]`."""
    _, found, data = part.partition(b"data: ")
    try:
        event = json.loads(data) if found else None
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
