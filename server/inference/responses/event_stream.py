"""Streaming a response that runs, or has run, in the background: the events from any number on, then the end.

Read from the database, on whichever gateway it is asked for. That which runs the response is told of more; the others
look now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import sqlalchemy as sa
import structlog

from server.core.errors import ApiError, BadRequest, TooManyRequests
from server.core.retry_headers import retry_headers
from server.inference.responses.event_log import EventLogs
from server.inference.responses.event_rows import StreamPart, sent_event
from server.inference.responses.store import ResponseStore

LOOK_S = 0.5
# Proxies close what is silent for a minute, and a response may wait for longer in the queue.
SILENT_S = 15.0
MAX_STREAMS = 100
KEEP_ALIVE = b": still here\n\n"


class EventStreams:
    """Those that this gateway sends. For one event loop."""

    def __init__(self, store: ResponseStore, logs: EventLogs) -> None:
        self._store = store
        self._logs = logs
        self._open: Counter[int] = Counter()  # by tenant

    async def check(self, tenant_id: int, response_id: str, number: int) -> bool:
        """Whether there is, or will be, anything to send from event `number` on.

        Raises what `ResponseStore.last_event` and `check_room` raise, and BadRequest for a number beyond the end.
        """
        last = await self._store.last_event(tenant_id, response_id)
        if last is not None and number > last + 1:
            raise BadRequest(
                f"starting_after is {number - 1}, and the last event of {response_id} has the number {last}.",
                param="starting_after",
                code="invalid_value",
            )
        self.check_room(tenant_id)
        return last is None or number <= last

    def check_room(self, tenant_id: int) -> None:
        """Raises TooManyRequests when the tenant has as many streams open here as it may have."""
        if self._open[tenant_id] >= MAX_STREAMS:
            raise TooManyRequests(
                f"There are {MAX_STREAMS} streams of background responses open, which is as many as there may be at "
                "once; close one of them. The responses go on.",
                counted="requests",
                reason="streams",
                headers=retry_headers(LOOK_S),
            )

    async def events(self, tenant_id: int, response_id: str, number: int = 0) -> AsyncIterator[bytes]:
        """The stream from event `number` on, as it is sent. An error event ends that of a response that is deleted."""
        self._open[tenant_id] += 1
        try:
            async for part in self._parts(tenant_id, response_id, number):
                yield part
        finally:
            self._open[tenant_id] -= 1
            if not self._open[tenant_id]:
                del self._open[tenant_id]

    async def _parts(self, tenant_id: int, response_id: str, number: int) -> AsyncIterator[bytes]:
        silent_s = 0.0
        while True:
            stored = self._logs.stored(response_id)
            part = await self._read(tenant_id, response_id, number)
            if part is None:
                yield sent_event(_gone(response_id, number))
                return
            if part.events:
                silent_s = 0.0
                yield part.events
            if part.ended:
                return
            number = part.next
            if part.events:
                continue
            silent_s += LOOK_S
            if silent_s >= SILENT_S:
                silent_s = 0.0
                yield KEEP_ALIVE
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for((stored or asyncio.Event()).wait(), LOOK_S)

    async def _read(self, tenant_id: int, response_id: str, number: int) -> StreamPart | None:
        """What there is now; nothing for as long as the database does not answer."""
        try:
            return await self._store.events(tenant_id, response_id, number)
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            structlog.get_logger().warning("stream of a response waits for the database", error=str(error))
            return StreamPart(b"", number, ended=False)


def _gone(response_id: str, number: int) -> dict[str, object]:
    message = f"The response {response_id} has been deleted, and its stream with it."
    error = {"code": "response_not_found", "message": message, "param": "response_id"}
    return {"type": "error", "sequence_number": number, **error}
