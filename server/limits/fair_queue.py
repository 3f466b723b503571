"""Who goes next into a full engine: the fair order of fair_order.py over several slots (Jin, Chase and Kaur, 2004).

While a tenant waits, it is served at least as a fluid server would serve it (to every waiting tenant at once, in
proportion to its weight) that is behind by one request of each other tenant. No slot stays free that the next request
fits in.

A tenant may have no more than `max_of_tenant` slots at once, so that one alone never keeps all others waiting until its
answers end. Others overtake it meanwhile.

A request for several slots waits until so many are free, and nobody else overtakes it. What others would have done
meanwhile in the slots that it keeps free is a part of its cost, by what a slot has lately done in a second.

Work of the background (lines of batches) has an order of its own, by the same rule. It starts when no request waits,
and as many at once as background_pace.py allows. While none of it runs, the next line starts in what is free, however
wide it is: it might wait for ever otherwise. Its other sequences wait within the engine, which serves requests first.

It does not count quotas (quotas.py) and does not know what a request is.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable

from server.limits.background_pace import BackgroundPace
from server.limits.fair_order import FairOrder, Flow, Place

# How far back counts what a slot has done in a second.
LATELY_S = 60.0


class QueueFull(Exception):
    """As many of the tenant's requests as may wait are of its class, or of one that goes before it."""


class FairQueue:
    """`max_running` slots, and at most `max_waiting` requests of each tenant waiting. For one event loop.

    Those of a less urgent class do not count among them: however many of a tenant's rollouts wait, its chats find room.
    There are three classes, not as many as priorities, which a client chooses.

    Without a `pace`, work of the background may have all slots that no request wants, and without `max_of_tenant` a
    tenant all there are.
    """

    def __init__(
        self,
        *,
        max_running: int,
        max_waiting: int,
        pace: BackgroundPace | None = None,
        max_of_tenant: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_running = max_running
        self.max_of_tenant = min(max_of_tenant or max_running, max_running)
        self.max_waiting = max_waiting
        self.waiting = 0  # requests, without the background's
        self.less_urgent_waiting = 0  # of these
        self.less_urgent_running = 0  # slots in use
        self.pace = pace or BackgroundPace(max_running, max_running)
        self._free = max_running
        self._slots: Counter[Hashable] = Counter()  # in use, by tenant, without the background's
        self._requests = FairOrder()
        self._background = FairOrder()
        self._look_again: asyncio.TimerHandle | None = None
        self._clock = clock
        # Whose request waits for more slots than are free; since when what it keeps free is counted.
        self._blocking: Flow | None = None
        self._counted_at = 0.0
        # What ended lately: its cost, and for how many seconds it had slots, times their number.
        self._lately_cost = self._lately_s = 0.0

    @property
    def running(self) -> int:
        """Slots in use."""
        return self.max_running - self._free

    @property
    def running_requests(self) -> int:
        """Those of them that have neither the background nor less urgent requests."""
        return self.running - self.pace.running - self.less_urgent_running

    @property
    def remembered(self) -> int:
        """Tenants of which anything is remembered."""
        return self._requests.remembered + self._background.remembered

    def enter(
        self,
        tenant: Hashable,
        *,
        cost: float,
        weight: float = 1.0,
        width: int = 1,
        priority: int = 0,
        background: bool = False,
    ) -> Place:
        """A place for a request of `tenant` that takes `width` slots; to be given up by `leave`, whatever happens.

        `cost` and `weight` are above 0; among one tenant's requests lower `priority` goes first. Raises QueueFull, but
        not for the background, of which whoever asks bounds how much waits.
        """
        self._count_kept_free()
        order, most = (self._background, self.max_running) if background else (self._requests, self.max_of_tenant)
        place = order.add(tenant, cost, weight, min(width, most), priority, background=background)
        self._requests.bring_back(tenant)
        self._count_waiting(place, 1)
        if not background:
            self.pace.request_came()
        self._dispatch()
        if not background and not place.running and self._ahead(place) > self.max_waiting:
            self.leave(place)
            raise QueueFull
        return place

    @staticmethod
    def _ahead(place: Place) -> int:
        """How many of its tenant wait in its class and those before it, with itself."""
        return bisect_right(place.flow.waiting, place.priority_class, key=lambda one: one.priority_class)

    def leave(self, place: Place, true_cost: float | None = None) -> None:
        """Give up `place`, waiting or running; once more does nothing.

        Where `true_cost` differs from the cost that was announced, the tenant's next request makes up for it.
        """
        if place.left:
            return
        place.left = True
        self._count_kept_free()
        if not place.background:
            self.pace.request_ended()
        if place.running:
            self._free += place.width
            self.less_urgent_running -= place.width * place.less_urgent
            if place.background:
                self.pace.ended(place.width, place.started_at)
            else:
                self._count_done(place.cost if true_cost is None else true_cost, place)
                self._count_slots(place, -1)
            if true_cost is not None:
                place.flow.correction += true_cost - place.cost
        else:
            place.flow.waiting.remove(place)
            place.granted.cancel()
            self._count_waiting(place, -1)
        self._requests.bring_back(place.flow.tenant)
        self._dispatch()

    def _dispatch(self) -> None:
        self._blocking = None
        while self._free and (place := self._requests.first()) is not None:
            if self._has_most(place):
                self._requests.set_aside_first()
                continue
            if place.width > self._free:
                self._blocking, self._counted_at = place.flow, self._clock()
                return  # nobody overtakes it, or it might wait for ever
            self._requests.take_first()
            self._count_slots(place, 1)
            place.started_at = self._clock()
            self._grant(place)
        while self._free and (place := self._background.first()) is not None:
            too_wide = place.width > self._free and self.pace.running > 0
            if too_wide or not self.pace.fits(place.width):
                self._dispatch_later()
                return
            self._background.take_first()
            place.width = min(place.width, self._free)
            place.started_at = self.pace.started(place.width)
            self._grant(place)

    def _has_most(self, place: Place) -> bool:
        """Whether its tenant would have more slots with it than a tenant may have, where that is not all."""
        most = self.max_of_tenant
        return most < self.max_running and self._slots[place.flow.tenant] + place.width > most

    def _count_kept_free(self) -> None:
        """Add to the cost of who blocks the queue what the slots that others wait for would have done since last."""
        flow = self._blocking
        if flow is None or not self._lately_s:
            return
        now = self._clock()
        wanted = min(self._free, self.waiting - self._requests.waiting_aside - len(flow.waiting))
        flow.correction += wanted * (now - self._counted_at) * self._lately_cost / self._lately_s
        self._counted_at = now

    def _count_slots(self, place: Place, sign: int) -> None:
        tenant = place.flow.tenant
        self._slots[tenant] += sign * place.width
        if not self._slots[tenant]:
            del self._slots[tenant]

    def _count_done(self, cost: float, place: Place) -> None:
        self._lately_cost += cost
        self._lately_s += place.width * (self._clock() - place.started_at)
        if self._lately_s > self.max_running * LATELY_S:
            self._lately_cost, self._lately_s = self._lately_cost / 2, self._lately_s / 2

    def _grant(self, place: Place) -> None:
        self._count_waiting(place, -1)
        self._free -= place.width
        self.less_urgent_running += place.width * place.less_urgent
        place.running = True
        if not place.granted.cancelled():
            place.granted.set_result(None)

    def _count_waiting(self, place: Place, by: int) -> None:
        self.waiting += by * (not place.background)
        self.less_urgent_waiting += by * place.less_urgent

    def _dispatch_later(self) -> None:
        """Look again when the background may have more, if nothing happens before."""
        if self._look_again is not None:
            self._look_again.cancel()
        wait = self.pace.look_again_s()
        self._look_again = None if wait is None else asyncio.get_running_loop().call_later(wait, self._dispatch)
