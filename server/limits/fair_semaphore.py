"""A semaphore whose slots are given to tenants in turn, and within a tenant to its jobs in turn.

The queue is the gateway's (limits/fair_queue.py), which is fair to tenants and takes a tenant's lowest priority first.
Here a priority is the number of the request in its own job, counted from where the tenant's other jobs are, so a job of
a thousand prompts and one of ten are served alternately.

Where what is done in a slot may hang, turns are counted by time: after one that was held for five seconds come five
seconds of the others, and not one of theirs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from server.limits.fair_queue import FairQueue


class Slots(Protocol):
    """Bounds how much is done at once."""

    def slot(self, tenant: str, job: str = "") -> AbstractAsyncContextManager[None]:
        """Waits for a slot and holds it as long as the block runs."""


class FairSemaphore:
    """At most `at_once` slots are held at a time. For one event loop.

    clock: turns are counted by the seconds that a slot is held; None: each counts the same.
    """

    def __init__(self, at_once: int, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._queue = FairQueue(max_running=at_once, max_waiting=sys.maxsize, clock=clock or time.monotonic)
        # By tenant: how many hold a slot or wait, and the number of the latest that got one. By job: the next number.
        self._present: Counter[str] = Counter()
        self._latest: dict[str, int] = {}
        self._next: dict[str, dict[str, int]] = {}

    @asynccontextmanager
    async def slot(self, tenant: str, job: str = "") -> AsyncIterator[None]:
        """Waits for a slot and holds it as long as the block runs."""
        self._present[tenant] += 1
        numbers = self._next.setdefault(tenant, {})
        number = max(numbers.get(job, 0), self._latest.get(tenant, 0))
        numbers[job] = number + 1
        place = self._queue.enter(tenant, cost=1, priority=number)
        try:
            await place.granted
            self._latest[tenant] = max(number, self._latest.get(tenant, 0))
            yield
        finally:
            held_s = self._clock() - place.started_at if self._clock and place.running else None
            self._queue.leave(place, held_s)
            self._present[tenant] -= 1
            if not self._present[tenant]:
                del self._present[tenant], self._next[tenant]
                self._latest.pop(tenant, None)


class TenantSemaphores:
    """At most `each` slots of a tenant are held at a time, in turn among its jobs. For one event loop.

    For what waits for servers of the tenant's own: one that hangs keeps its slots, and those of nobody else.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._semaphores: dict[str, FairSemaphore] = {}
        self._present: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, tenant: str, job: str = "") -> AsyncIterator[None]:
        """Waits for a slot and holds it as long as the block runs."""
        self._present[tenant] += 1
        semaphore = self._semaphores.setdefault(tenant, FairSemaphore(self._each))
        try:
            async with semaphore.slot(tenant, job):
                yield
        finally:
            self._present[tenant] -= 1
            if not self._present[tenant]:
                del self._present[tenant], self._semaphores[tenant]


class ShareSemaphore:
    """At most `at_once` slots are held at a time, and at most `each` of them by one tenant; in turn, by time.

    For what is shared by all tenants and waits for servers of theirs. For one event loop.
    """

    def __init__(self, at_once: int, each: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._all, self._own = FairSemaphore(at_once, clock), TenantSemaphores(each)

    @asynccontextmanager
    async def slot(self, tenant: str, job: str = "") -> AsyncIterator[None]:
        """Waits for a slot and holds it as long as the block runs."""
        async with self._own.slot(tenant, job), self._all.slot(tenant, job):
            yield
