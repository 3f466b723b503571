"""The leases of the responses that run on this gateway: renewed here, and seen to have ended.

Another gateway ends a response by ending its row, or by deleting it, which is seen with the next renewal. What a
gateway left behind that is gone, the others end: not right after the database was away, when no lease is renewed yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from time import monotonic

import sqlalchemy as sa
import structlog

from server.core.background import repeating
from server.core.errors import ApiError
from server.inference.responses.rows import LEASE_S
from server.inference.responses.store import ResponseStore

RENEW_S = 3.0
# Renewals in a row, a lease long, that the database must have answered before what it says of others is believed.
ANSWERS = round(LEASE_S / RENEW_S)


class Leases:
    """`lost` is called with the id of a response that runs here and whose row has ended or is gone."""

    def __init__(self, store: ResponseStore, lost: Callable[[str], None]) -> None:
        self._store = store
        self._lost = lost
        self._held: set[str] = set()
        self._answers = 0
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def take(self, response_id: str) -> None:
        """This response runs here; its row says since just now that it runs."""
        self._held.add(response_id)

    def give_up(self, response_id: str) -> None:
        """It has ended, or its row is gone."""
        self._held.discard(response_id)

    def renewing(self, renew_s: float = RENEW_S) -> AbstractAsyncContextManager[None]:
        """Renews them, and ends what others left behind, while the block runs."""
        return repeating(self._renew, first_s=renew_s, every_s=renew_s)

    async def _renew(self, _ended: asyncio.Event) -> None:
        asked = monotonic()
        try:
            held = set(self._held)
            for response_id in held - await self._store.still_running(held):
                self._lost(response_id)
            # While the database hangs nobody renews a lease, as while it is away.
            self._answers = self._answers + 1 if monotonic() - asked < LEASE_S / 2 else 0
            if self._answers > ANSWERS:
                await self._store.end_lost()
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._answers = 0
            self._log.error("leases of responses not renewed, tried again soon", error=str(error))
