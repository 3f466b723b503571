"""So many at a time, whoever waits taking turns: tenants among each other, and the jobs of a tenant.

Design decision: the queue is the gateway's (limits/fair_queue.py), which is fair to tenants. Among one tenant's places
it takes the lowest priority first, so a place's priority is its number in its own job, which begins where the others of
the tenant are: a job of a thousand prompts and one of ten are served one by one in turn.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.limits.fair_queue import FairQueue


class FairSemaphore:
    """At most `at_once` inside. For one event loop."""

    def __init__(self, at_once: int) -> None:
        self._queue = FairQueue(max_running=at_once, max_waiting=sys.maxsize)
        # By tenant, how many are inside or wait, and the number of the latest that was let in; by job, the next number.
        self._present: Counter[str] = Counter()
        self._latest: dict[str, int] = {}
        self._next: dict[str, dict[str, int]] = {}

    @asynccontextmanager
    async def slot(self, tenant: str, job: str = "") -> AsyncIterator[None]:
        """Waits for a place, and has it as long as the block runs."""
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
            self._queue.leave(place)
            self._present[tenant] -= 1
            if not self._present[tenant]:
                del self._present[tenant], self._next[tenant]
                self._latest.pop(tenant, None)
