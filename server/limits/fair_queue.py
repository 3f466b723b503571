"""Who goes next into a full engine: weighted fair order across tenants.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) over several slots (Jin, Chase and Kaur, 2004). Every tenant with
requests has a start tag; whoever has the lowest goes next. That tag is then the virtual time, and the tenant's own tag
moves on by cost / weight. A tenant that comes new starts at the virtual time: it is next in line, and has no credit
from when it was away.

While a tenant waits, it is served at least as a fluid server would serve it (to every waiting tenant at once, in
proportion to its weight) that is behind by one request of each other tenant. No slot stays free that the next request
fits in.

A tenant without requests stays in the heap until the virtual time has passed its tag, which then no longer matters. So
nothing is remembered of anyone while slots are free.

It does not count quotas (quotas.py) and does not know what a request is.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from itertools import count


class QueueFull(Exception):
    """The tenant has as many requests waiting as may wait."""


@dataclass(slots=True, eq=False)
class Flow:
    """One tenant: its start tag in virtual time, and its waiting requests, most urgent and then oldest first."""

    tenant: Hashable
    start: float
    order: int
    waiting: list[Place] = field(default_factory=list)
    correction: float = 0.0

    def __lt__(self, other: Flow) -> bool:
        return (self.start, self.order) < (other.start, other.order)


@dataclass(slots=True, eq=False)
class Place:
    """One request in the queue or in the engine. `granted` is done when it may run."""

    flow: Flow
    cost: float
    weight: float
    width: int
    priority: int
    order: int
    granted: asyncio.Future[None]
    left: bool = False

    def __lt__(self, other: Place) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)


class FairQueue:
    """`max_running` slots, and at most `max_waiting` requests of each tenant waiting. For one event loop."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.waiting = 0
        self._free = max_running
        self._virtual_time = 0.0
        self._heap: list[Flow] = []
        self._flows: dict[Hashable, Flow] = {}
        self._order = count()

    @property
    def running(self) -> int:
        """Slots in use."""
        return self.max_running - self._free

    @property
    def remembered(self) -> int:
        """Tenants of which anything is remembered."""
        return len(self._flows)

    def enter(self, tenant: Hashable, *, cost: float, weight: float = 1.0, width: int = 1, priority: int = 0) -> Place:
        """A place for a request of `tenant` that takes `width` slots; to be given up by `leave`, whatever happens.

        `cost` and `weight` are above 0; among one tenant's requests lower `priority` goes first. Raises QueueFull.
        """
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = Flow(tenant, self._virtual_time, next(self._order))
            heappush(self._heap, flow)
        granted = asyncio.get_running_loop().create_future()
        place = Place(flow, cost, weight, min(width, self.max_running), priority, next(self._order), granted)
        insort(flow.waiting, place)
        self.waiting += 1
        self._dispatch()
        if not granted.done() and len(flow.waiting) > self.max_waiting:
            self.leave(place)
            raise QueueFull
        return place

    def leave(self, place: Place, true_cost: float | None = None) -> None:
        """Give up `place`, waiting or running; once more does nothing.

        Where `true_cost` differs from the cost that was announced, the tenant's next request makes up for it.
        """
        if place.left:
            return
        place.left = True
        if place.granted.done():
            self._free += place.width
            if true_cost is not None:
                place.flow.correction += true_cost - place.cost
        else:
            place.flow.waiting.remove(place)
            place.granted.cancel()
            self.waiting -= 1
        self._dispatch()

    def _dispatch(self) -> None:
        while self._heap and self._free:
            flow = self._heap[0]
            self._virtual_time = flow.start
            if not flow.waiting:
                heappop(self._heap)
                del self._flows[flow.tenant]
                continue
            place = flow.waiting[0]
            if place.width > self._free:
                return  # nobody overtakes it, or it might wait for ever
            del flow.waiting[0]
            self.waiting -= 1
            self._free -= place.width
            cost = place.cost + flow.correction
            flow.correction = min(cost, 0.0)
            flow.start += max(cost, 0.0) / place.weight
            heapreplace(self._heap, flow)
            place.granted.set_result(None)
        if not self._heap:
            self._virtual_time = 0.0
