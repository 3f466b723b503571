"""The fair order in which tenants' requests go: weighted start-time fair queueing (Goyal, Vin and Cheng, 1996).

Every tenant with requests has a start tag; whoever has the lowest goes next. That tag is then the virtual time, and the
tenant's own tag moves on by cost / weight. A tenant that comes new starts at the virtual time: it is next in line, and
has no credit from when it was away.

A tenant without requests stays in the heap until the virtual time has passed its tag, which then no longer matters. So
nothing is remembered of anyone while slots are free.

A tenant that may have no more for now is set aside, out of the heap, and comes back as one that comes new does.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from itertools import count


@dataclass(slots=True, eq=False)
class Flow:
    """One tenant: its start tag in virtual time, and its waiting requests, most urgent and then oldest first. aside:
    whether it is passed over."""

    tenant: Hashable
    start: float
    order: int
    weight: float = 1.0
    waiting: list[Place] = field(default_factory=list)
    correction: float = 0.0
    aside: bool = False

    def __lt__(self, other: Flow) -> bool:
        return (self.start, self.order) < (other.start, other.order)


@dataclass(slots=True, eq=False)
class Place:
    """One request in the queue or in the engine. `granted` is done when it may run, since the time `started_at`.

    Whoever awaits `granted` and is cancelled cancels it too, so `running` says whether it has slots.
    """

    flow: Flow
    cost: float
    weight: float
    width: int
    priority: int
    order: int
    granted: asyncio.Future[None]
    background: bool = False
    started_at: float = 0.0
    running: bool = False
    left: bool = False

    def __lt__(self, other: Place) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)

    @property
    def priority_class(self) -> int:
        """-1: before ordinary requests; 0: one of them; 1: after them, however long."""
        return (self.priority > 0) - (self.priority < 0)

    @property
    def less_urgent(self) -> bool:
        """A request that comes after its tenant's ordinary ones. What is of the background has an order of its own."""
        return self.priority > 0 and not self.background


class FairOrder:
    """The fair order of the requests that wait."""

    def __init__(self) -> None:
        self._virtual_time = 0.0
        self._heap: list[Flow] = []
        self._flows: dict[Hashable, Flow] = {}
        self._order = count()

    @property
    def remembered(self) -> int:
        """Tenants of which anything is remembered."""
        return len(self._flows)

    @property
    def waiting_aside(self) -> int:
        """Requests of tenants that are passed over."""
        return sum(len(flow.waiting) for flow in self._flows.values() if flow.aside)

    def add(
        self, tenant: Hashable, cost: float, weight: float, width: int, priority: int, *, background: bool
    ) -> Place:
        """A new place, behind those of its tenant that are as urgent."""
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = Flow(tenant, self._virtual_time, next(self._order))
            heappush(self._heap, flow)
        granted = asyncio.get_running_loop().create_future()
        place = Place(flow, cost, weight, width, priority, next(self._order), granted, background)
        flow.weight = weight
        insort(flow.waiting, place)
        return place

    def first(self) -> Place | None:
        """Who goes next; None when nobody waits."""
        while self._heap:
            flow = self._heap[0]
            self._virtual_time = flow.start
            if flow.waiting:
                return flow.waiting[0]
            if flow.correction > 0:  # it owes that also when it has left
                self._move_on(flow, flow.correction / flow.weight)
                flow.correction = 0.0
                continue
            heappop(self._heap)
            del self._flows[flow.tenant]
        if not self._flows:
            self._virtual_time = 0.0
        return None

    def set_aside_first(self) -> None:
        """Pass over the tenant of `first` until `bring_back`."""
        heappop(self._heap).aside = True

    def bring_back(self, tenant: Hashable) -> None:
        """Pass over `tenant` no longer, if it was."""
        flow = self._flows.get(tenant)
        if flow is not None and flow.aside:
            flow.aside, flow.start = False, max(flow.start, self._virtual_time)
            heappush(self._heap, flow)

    def take_first(self) -> None:
        """The one of `first` goes."""
        flow = self._heap[0]
        place = flow.waiting.pop(0)
        cost = place.cost + flow.correction
        flow.correction = min(cost, 0.0)
        self._move_on(flow, max(cost, 0.0) / place.weight)

    def _move_on(self, first: Flow, by: float) -> None:
        first.start += by
        heapreplace(self._heap, first)
