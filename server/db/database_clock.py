"""The clock of PostgreSQL, which all its gateways follow: a lease that one has written another one judges.

Each has its own clock otherwise, and one that is half a minute ahead takes what the others do from them. Asked now and
then; between, time goes on as this machine's monotonic clock does, so that it is right also where the machine's time of
day is set while the gateway runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog

from server.core.background import repeating
from server.core.clock import process_following
from server.core.errors import ApiError
from server.db.database import Database

EVERY_S = 5.0
# An answer that took longer says too little of when it was given.
SLOW_S = 1.0
# Smaller differences are of the way there and back, and time would jump with each answer.
STEP_S = 0.2
# A machine that is so far off is told of: signatures of webhooks, certificates and logs go by its own time.
FAR_S = 5.0


class DatabaseClock:
    """Of one gateway's database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._at_zero: float | None = None  # what it was there when monotonic() was 0 here
        self._was_far = False
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def time(self) -> float:
        """Seconds since 1970 there; here, until the database has answered."""
        return time.time() if self._at_zero is None else self._at_zero + time.monotonic()

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """While the block runs this process has its time from the database."""
        await asyncio.to_thread(self.ask)
        with process_following(self.time):
            async with repeating(self._ask, first_s=EVERY_S, every_s=EVERY_S):
                yield

    def ask(self) -> None:
        """Ask the database what time it is. Blocks. Without an answer time goes on as before."""
        try:
            with self._database.read() as connection:
                connection.execute(sa.select(1))  # the transaction begins with it
                asked = time.monotonic()
                there = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
                answered = time.monotonic()
        except (ApiError, sa.exc.SQLAlchemyError) as error:
            self._log.warning("the database was not asked for its time", error=str(error))
            return
        if self._at_zero is not None and answered - asked > SLOW_S:
            return
        at_zero = float(there) - (asked + answered) / 2
        if self._at_zero is None or abs(at_zero - self._at_zero) > STEP_S:
            self._at_zero = at_zero
        self._tell_if_far()

    def _tell_if_far(self) -> None:
        ahead_s = time.time() - self.time()
        is_far = abs(ahead_s) > FAR_S
        if is_far and not self._was_far:
            self._log.warning(
                "this machine's clock differs from the database's, by which this gateway goes; set both by NTP",
                ahead_s=round(ahead_s, 1),
            )
        self._was_far = is_far

    async def _ask(self, _ended: asyncio.Event) -> None:
        await asyncio.to_thread(self.ask)
