"""The queue against a fluid server that serves every waiting tenant at once, in proportion to its weight."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.limits.fair_order import Place
from server.limits.fair_queue import FairQueue, QueueFull

FUZZ = settings(max_examples=200, deadline=None, derandomize=True)
WEIGHTS = st.sampled_from([0.25, 1.0, 2.0, 7.0])
COSTS = st.integers(1, 1000)
TENANTS = st.lists(st.tuples(WEIGHTS, st.lists(COSTS, min_size=1, max_size=12)), min_size=2, max_size=6)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def fluid(service: float, backlogs: Mapping[int, float], weights: Mapping[int, float], tenant: int) -> float:
    """What `tenant` has got of `service` when all backlogs began at once: everyone's level rises with its weight."""
    level, left, waiting = 0.0, service, set(backlogs)
    while waiting and left > 1e-9:
        speed = sum(weights[t] for t in waiting)
        step = min([left / speed] + [backlogs[t] / weights[t] - level for t in waiting])
        level, left = level + step, left - step * speed
        waiting = {t for t in waiting if backlogs[t] / weights[t] > level + 1e-9}
    return min(backlogs[tenant], weights[tenant] * level)


@FUZZ
@given(TENANTS, st.integers(1, 3))
def test_waiting_tenants_get_a_fluid_servers_share_less_one_request_of_each_other(
    tenants: list[tuple[float, list[int]]], max_running: int
) -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=max_running, max_waiting=100)
        blockers = [queue.enter("blocker", cost=1) for _ in range(max_running)]
        weights = {t: weight for t, (weight, _) in enumerate(tenants)}
        backlogs = {t: float(sum(costs)) for t, (_, costs) in enumerate(tenants)}
        waiting = [queue.enter(t, cost=c, weight=weights[t]) for t, (_, costs) in enumerate(tenants) for c in costs]
        got: Counter[int] = Counter()
        running = blockers
        while waiting:
            queue.leave(running.pop(0))
            (granted,) = [place for place in waiting if place.granted.done()]  # one slot free, one request more
            waiting.remove(granted)
            running.append(granted)
            got[granted.flow.tenant] += int(granted.cost)  # type: ignore[index]
            for tenant in {place.flow.tenant for place in waiting}:
                assert isinstance(tenant, int)
                behind = sum(max(costs) for t, (_, costs) in enumerate(tenants) if t != tenant)
                assert got[tenant] >= fluid(got.total() - behind, backlogs, weights, tenant) - 1e-6

    run(serve())


SIZES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 100)), min_size=1, max_size=8)


@FUZZ
@given(st.lists(st.tuples(WEIGHTS, SIZES), min_size=2, max_size=4))
def test_slots_that_a_wide_request_keeps_free_are_of_its_tenants_share(
    tenants: list[tuple[float, list[tuple[int, int]]]],
) -> None:
    """As above, of requests that take `width` slots for some seconds and cost as much; slots number 4."""

    async def serve() -> None:
        now = 0.0
        queue = FairQueue(max_running=4, max_waiting=100, clock=lambda: now)
        weights = {t: weight for t, (weight, _) in enumerate(tenants)}
        ends = [(1.0, 0, queue.enter("blocker", cost=4, width=4))]
        waiting: list[Place] = []
        granted: list[Place] = []
        for tenant, (weight, sizes) in enumerate(tenants):
            for width, seconds in sizes:
                waiting.append(queue.enter(tenant, cost=width * seconds, weight=weight, width=width))
                waiting[-1].granted.add_done_callback(lambda _, place=waiting[-1]: granted.append(place))
        got: Counter[int] = Counter()
        largest: Counter[int] = Counter()
        seen: list[tuple[Counter[int], set[int]]] = []
        kept: list[tuple[float, int, Counter[int]]] = []  # for how long, how many slots, and who waited for them
        while ends:
            until, _, ended = heappop(ends)
            kept.append((until - now, 4 - queue.running, Counter(int(str(p.flow.tenant)) for p in waiting)))
            now = until
            queue.leave(ended)
            await asyncio.sleep(0)
            for place in granted:
                tenant = int(str(place.flow.tenant))
                idle = sum(s * min(free, who.total() - who[tenant]) for s, free, who in kept)
                kept = []
                got[tenant] += place.cost + idle  # type: ignore[assignment]
                largest[tenant] = max(largest[tenant], place.cost + idle)  # type: ignore[assignment]
                heappush(ends, (now + place.cost / place.width, place.order, place))
                waiting.remove(place)
            granted.clear()
            seen.append((got.copy(), {int(str(p.flow.tenant)) for p in waiting}))
        assert not waiting
        for so_far, still_waiting in seen:
            for tenant in still_waiting:
                behind = sum(largest[t] for t in weights if t != tenant)
                assert so_far[tenant] >= fluid(so_far.total() - behind, got, weights, tenant) - 1e-6

    run(serve())


async def test_a_wide_request_that_leaves_before_its_turn_has_kept_its_slots_free_all_the_same() -> None:
    now = 0.0
    queue = FairQueue(max_running=2, max_waiting=100, clock=lambda: now)
    running = [queue.enter("narrow", cost=10) for _ in range(2)]
    wide = queue.enter("wide", cost=1, width=2)
    narrow = [queue.enter("narrow", cost=10) for _ in range(40)]
    now = 10.0
    queue.leave(running[0])
    now = 100.0  # for 90 seconds a slot is free, and does nothing
    queue.leave(wide)
    again = queue.enter("wide", cost=1, width=1)
    ahead = 0
    while not again.granted.done():
        queue.leave(next(place for place in narrow if place.granted.done() and not place.left))
        ahead += 1
    assert 7 <= ahead <= 10  # of ten seconds each


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 4), COSTS, st.integers(0, 3), st.integers(0, 20)), max_size=60))
def test_no_slot_is_free_while_anyone_waits_and_everyone_is_served(steps: list[tuple[int, int, int, int]]) -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=3, max_waiting=5)
        places: list[Place] = []
        for tenant, cost, priority, leaving in steps:
            try:
                places.append(queue.enter(tenant, cost=cost, priority=priority))
            except QueueFull:
                own = [p for p in places if p.flow.tenant == tenant and not p.granted.done()]
                assert len([p for p in own if p.priority == 0 or priority]) >= 5
            if leaving < len(places):  # a client that leaves, waiting or not, or a request that ends
                queue.leave(places.pop(leaving))
            assert queue.running == sum(place.granted.done() for place in places) <= 3
            assert queue.waiting == sum(not place.granted.done() for place in places)
            assert queue.waiting == 0 or queue.running == 3
            less_urgent = [place for place in places if place.priority]
            assert queue.less_urgent_waiting == sum(not place.granted.done() for place in less_urgent)
            assert queue.running - queue.running_requests == sum(place.granted.done() for place in less_urgent)
        while places:
            ready = next(place for place in places if place.granted.done())
            queue.leave(ready)
            places.remove(ready)
        assert (queue.waiting, queue.running, queue.remembered) == (0, 0, 0)
        assert (queue.less_urgent_waiting, queue.less_urgent_running) == (0, 0)

    run(serve())


@pytest.mark.parametrize("backlog", [1, 50])
async def test_a_newcomer_waits_for_one_request_of_a_flood_however_long_it_is(backlog: int) -> None:
    queue = FairQueue(max_running=1, max_waiting=100)
    flood = [queue.enter("flood", cost=10) for _ in range(backlog + 3)]
    for place in flood[:2]:
        queue.leave(place)
    newcomer = queue.enter("other", cost=10)
    queue.leave(flood[2])
    assert newcomer.granted.done()


async def test_a_tenant_that_was_away_has_no_credit() -> None:
    queue = FairQueue(max_running=1, max_waiting=100)
    running = queue.enter("busy", cost=1)
    busy = [queue.enter("busy", cost=1) for _ in range(40)]
    for place in [running, *busy[:20]]:
        queue.leave(place)
    returning = [queue.enter("returning", cost=1) for _ in range(10)]
    order = []
    ready = busy[20]
    for _ in range(10):
        queue.leave(ready)
        (ready,) = [p for p in busy + returning if p.granted.done() and not p.left]
        order.append(ready.flow.tenant)
    assert Counter(order) == {"busy": 5, "returning": 5}


async def test_within_a_tenant_the_most_urgent_goes_first_and_then_the_oldest() -> None:
    queue = FairQueue(max_running=1, max_waiting=100)
    running = queue.enter("a", cost=1)
    places = {n: queue.enter("a", cost=1, priority=p) for n, p in {"w": 5, "x": 0, "y": 5, "z": 1}.items()}
    order = []
    while len(order) < 4:
        queue.leave(running)
        (name,) = [n for n, place in places.items() if place.granted.done() and n not in order]
        order.append(name)
        running = places[name]
    assert order == ["x", "z", "w", "y"]


async def test_a_request_for_many_slots_is_not_overtaken() -> None:
    queue = FairQueue(max_running=4, max_waiting=100)
    narrow = [queue.enter("narrow", cost=1) for _ in range(4)]
    wide = queue.enter("wide", cost=4, width=100)  # as many as there are
    later = queue.enter("narrow", cost=1)
    for place in narrow[:3]:
        queue.leave(place)
    assert not wide.granted.done() and not later.granted.done()
    queue.leave(narrow[3])
    assert wide.granted.done() and not later.granted.done()
    queue.leave(wide)
    assert later.granted.done()


async def test_a_waiting_request_that_leaves_makes_room_at_once() -> None:
    queue = FairQueue(max_running=1, max_waiting=1)
    running = queue.enter("a", cost=1)
    waiting = queue.enter("a", cost=1)
    with pytest.raises(QueueFull):
        queue.enter("a", cost=1)
    assert queue.waiting == 1
    queue.leave(waiting)
    queue.leave(waiting)
    next_one = queue.enter("a", cost=1)
    queue.leave(running)
    assert next_one.granted.done() and waiting.granted.cancelled()


async def test_priorities_that_a_client_chooses_give_its_tenant_no_more_room() -> None:
    queue = FairQueue(max_running=1, max_waiting=3)
    queue.enter("a", cost=1)
    for priority in (100, 99, 98):
        queue.enter("a", cost=1, priority=priority)
    with pytest.raises(QueueFull):
        queue.enter("a", cost=1, priority=1)
    for priority in (0, -10):  # ordinary ones, and those to which the operator grants it
        for _ in range(3):
            queue.enter("a", cost=1, priority=priority)
        with pytest.raises(QueueFull):
            queue.enter("a", cost=1, priority=priority)
    assert queue.waiting == 9


async def test_answers_longer_than_announced_count_at_the_tenants_next_turn() -> None:
    queue = FairQueue(max_running=1, max_waiting=100)
    running = queue.enter("liar", cost=1)
    places = {t: [queue.enter(t, cost=1) for _ in range(12)] for t in ("liar", "honest")}
    order = []
    for _ in range(12):
        queue.leave(running, true_cost=5.0 if running.flow.tenant == "liar" else None)
        (running,) = [p for p in places["liar"] + places["honest"] if p.granted.done() and not p.left]
        order.append(running.flow.tenant)
    assert Counter(order)["liar"] <= 4  # of two tenants with equal weights, one taking five times as much


async def test_all_requests_that_end_before_the_next_turn_count_at_it() -> None:
    queue = FairQueue(max_running=3, max_waiting=100)
    blockers = [queue.enter("blocker", cost=1) for _ in range(3)]
    places = {t: [queue.enter(t, cost=1) for _ in range(22)] for t in ("long", "other")}
    for blocker in blockers:
        queue.leave(blocker)
    running = [place for place in places["long"] if place.granted.done()]
    assert len(running) == 2
    for place in running:
        queue.leave(place, true_cost=6)
    order = []
    while len(order) < 24:
        for place in [p for p in places["long"] + places["other"] if p.granted.done() and not p.left]:
            order.append(place.flow.tenant)
            queue.leave(place)
    # Ten more than announced: so many turns the other is ahead.
    assert 9 <= Counter(order)["other"] - Counter(order)["long"] <= 13


async def test_what_was_announced_too_high_makes_up_for_as_many_turns_as_it_takes() -> None:
    queue = FairQueue(max_running=1, max_waiting=100)
    running = queue.enter("careful", cost=100)
    places = {t: [queue.enter(t, cost=10) for _ in range(20)] for t in ("careful", "other")}
    order = []
    queue.leave(running, true_cost=10)
    while len(order) < 24:
        (running,) = [p for p in places["careful"] + places["other"] if p.granted.done() and not p.left]
        order.append(running.flow.tenant)
        queue.leave(running)
    # Announced were ten turns, one was taken; the nine that are owed come together once it is its turn.
    assert abs(Counter(order)["careful"] - Counter(order)["other"]) <= 2


async def test_nothing_is_remembered_of_many_tenants_that_come_once() -> None:
    queue = FairQueue(max_running=2, max_waiting=1)
    held = queue.enter("long", cost=1)
    for tenant in range(10_000):
        queue.leave(queue.enter(tenant, cost=100))
        assert queue.remembered <= 2
    queue.leave(held)


def test_a_tenant_leaves_others_the_slots_beyond_its_most() -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=4, max_waiting=100, max_of_tenant=3)
        ours = [queue.enter("a", cost=1) for _ in range(5)]
        assert [place.running for place in ours] == [True] * 3 + [False] * 2
        theirs = queue.enter("b", cost=100)
        assert theirs.running, "the slot that is kept, whoever came first"
        queue.leave(theirs)
        assert not ours[3].running
        queue.leave(ours[0])
        assert ours[3].running and not ours[4].running
        queue.leave(ours[4])
        assert queue.waiting == 0
        for place in ours:
            queue.leave(place)
        assert (queue.running, queue.remembered) == (0, 0)

    run(serve())


def test_a_request_wider_than_its_tenant_may_have_now_is_overtaken_by_others_alone() -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=8, max_waiting=100, max_of_tenant=6)
        narrow = queue.enter("a", cost=1)
        wide, behind = queue.enter("a", cost=1, width=99), queue.enter("a", cost=1)
        assert wide.width == 6 and not wide.running and not behind.running
        assert queue.enter("b", cost=1, width=6).running
        urgent = queue.enter("a", cost=1, priority=-1)
        assert urgent.running, "one that goes before it, and finds room"
        queue.leave(narrow)
        queue.leave(urgent)
        assert not wide.running, "two slots are free, and b has the others"
        queue.leave(wide)
        assert behind.running, "whose client has left keeps nobody"

    run(serve())


def test_a_tenant_that_comes_back_has_no_credit_from_when_it_had_its_most() -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=3, max_waiting=100, max_of_tenant=2)
        a = [queue.enter("a", cost=1) for _ in range(20)]
        b = [queue.enter("b", cost=1) for _ in range(20)]
        for _ in range(6):  # b has one slot, over and over, while a has its two
            queue.leave(next(place for place in b if place.running and not place.left))
        order = []
        running = [place for place in (*a, *b) if place.running and not place.left]
        for _ in range(8):
            queue.leave(running.pop(0))
            (new,) = [place for place in (*a, *b) if place.running and not place.left and place not in running]
            running.append(new)
            order.append(new.flow.tenant)
        assert 3 <= order.count("b") <= 5, order

    run(serve())


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_nobody_has_more_than_its_most_and_everybody_is_served(
    requests: list[tuple[int, int, bool]], most: int, order: Any
) -> None:
    async def serve() -> None:
        queue = FairQueue(max_running=5, max_waiting=100, max_of_tenant=most)
        left = []
        for tenant, width, ends in requests:
            left.append(queue.enter(tenant, cost=width, width=width))
            if ends:
                queue.leave(left.pop(order.randrange(len(left))))
            slots = Counter[Any]()
            for place in left:
                slots[place.flow.tenant] += place.width * place.running
            assert max(slots.values(), default=0) <= most and slots.total() == queue.running <= 5
        while left:
            served = [place for place in left if place.running]
            assert served, "somebody always goes"
            place = order.choice(served)
            left.remove(place)
            queue.leave(place)
        assert (queue.running, queue.waiting, queue.remembered) == (0, 0, 0)

    run(serve())
