"""What may run of the background beside requests, by a clock that the test moves; and its order in the queue."""

import asyncio

import pytest

from server.limits.background_pace import MAX_REST_S, QUIET_S, REST_FACTOR, BackgroundPace
from server.limits.fair_order import Place
from server.limits.fair_queue import FairQueue
from tests.server.limits.test_token_bucket import Clock


def granted(places: list[Place]) -> list[bool]:
    return [place.granted.done() for place in places]


async def test_requests_go_first_and_the_background_has_only_what_they_leave() -> None:
    queue = FairQueue(max_running=3, max_waiting=10, pace=BackgroundPace(2, 1, quiet_s=0))
    lines = [queue.enter("a", cost=1, background=True) for _ in range(5)]
    assert granted(lines) == [True, True, False, False, False], "one slot is kept free"
    requests = [queue.enter("b", cost=1) for _ in range(2)]
    assert granted(requests) == [True, False] and queue.waiting == 1, "lines that wait are not counted"
    queue.leave(lines[0])
    assert granted(requests) == [True, True] and granted(lines) == [True, True, False, False, False]
    queue.leave(lines[1])
    assert granted(lines[2:]) == [False] * 3, "it rests beside requests"
    for request in requests:
        queue.leave(request)
    assert granted(lines[2:]) == [True, True, False]


async def test_what_runs_of_requests_is_told_apart_from_the_background() -> None:
    queue = FairQueue(max_running=8, max_waiting=8)
    line = queue.enter("a", cost=1, width=3, background=True)
    request = queue.enter("a", cost=1, width=2)
    assert (queue.running, queue.running_requests) == (5, 2)
    queue.leave(line)
    assert (queue.running, queue.running_requests) == (2, 2)
    queue.leave(request)
    line = queue.enter("a", cost=1, width=2, priority=10, background=True)  # no less urgent request
    assert (queue.running, queue.running_requests, queue.less_urgent_running) == (2, 0, 0)
    queue.leave(line)
    assert (queue.running, queue.running_requests) == (0, 0)


async def test_tenants_take_turns_in_the_background_too() -> None:
    queue = FairQueue(max_running=1, max_waiting=0, pace=BackgroundPace(1, 1))
    first = queue.enter("a", cost=1, background=True)
    mine = [queue.enter("a", cost=1, background=True) for _ in range(3)]
    other = queue.enter("b", cost=1, background=True)
    queue.leave(first)
    assert other.granted.done() and not any(granted(mine))


async def test_the_background_goes_on_by_itself_when_it_has_become_quiet() -> None:
    queue = FairQueue(max_running=4, max_waiting=10, pace=BackgroundPace(4, 1, quiet_s=0.01))
    request = queue.enter("b", cost=1)
    lines = [queue.enter("a", cost=1, background=True) for _ in range(4)]
    assert granted(lines) == [True, False, False, False]
    queue.leave(request)
    async with asyncio.timeout(10):
        await asyncio.gather(*(line.granted for line in lines))


async def test_a_wide_line_runs_beside_requests_and_those_behind_it_come_to_their_turn() -> None:
    queue = FairQueue(max_running=4, max_waiting=10, pace=BackgroundPace(2, 1, quiet_s=0))
    queue.enter("b", cost=1)
    lines = [queue.enter("a", cost=1, width=width, background=True) for width in (2, 4)]
    lines.append(queue.enter("c", cost=1, background=True))
    assert granted(lines) == [True, False, False], "one that is too wide runs alone"
    queue.leave(lines[0])
    async with asyncio.timeout(30):
        await lines[1].granted
        assert queue.running == 4, "it is wider than what is free, and takes that"
        request = queue.enter("b", cost=1)
        queue.leave(lines[1])
        assert granted([request]) == [True] and queue.running == 2
        await lines[2].granted


def test_beside_requests_it_takes_a_fifth_of_the_time() -> None:
    clock = Clock()
    pace = BackgroundPace(8, 2, clock=clock)
    clock.now = 100.0
    pace.request_came()
    began = pace.started(1)
    assert pace.fits(1) and not pace.fits(2)
    pace.started(1)
    clock.now += 0.5
    pace.ended(2, began)
    rest = REST_FACTOR * 0.5 / 2
    assert not pace.fits(1) and pace.look_again_s() == pytest.approx(rest)
    clock.now += rest
    assert pace.fits(2)
    began = pace.started(1)
    clock.now += 1000
    pace.ended(1, began)
    assert pace.look_again_s() == pytest.approx(MAX_REST_S)
    clock.now += MAX_REST_S
    pace.started(1)
    pace.request_ended()
    assert not pace.fits(7) and pace.look_again_s() == pytest.approx(QUIET_S)
    clock.now += QUIET_S
    assert pace.fits(7) and pace.look_again_s() is None


@pytest.mark.parametrize("beside_a_request", [False, True])
def test_a_line_that_is_wider_than_what_the_background_may_have_runs_alone(beside_a_request: bool) -> None:
    pace = BackgroundPace(2, 1, clock=Clock())
    if beside_a_request:
        pace.request_came()
    assert pace.fits(5)
    pace.started(1)
    assert not pace.fits(5)
