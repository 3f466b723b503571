"""The silence of an engine, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from server.engine.progress import EngineProgress


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ended(Exception):
    """As vLLM raises when an engine dies."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> EngineProgress:
    return EngineProgress(clock)


async def outputs(queue: asyncio.Queue[str | None]) -> AsyncGenerator[str, None]:
    while (one := await queue.get()) is not None:
        if one == "ended":
            raise Ended
        yield one


async def waits(progress: EngineProgress, queue: asyncio.Queue[str | None]) -> asyncio.Task[str]:
    """A request that waits for its first output."""
    task = asyncio.ensure_future(anext(progress.watch(outputs(queue))))
    await asyncio.sleep(0)
    return task


async def test_time_without_requests_is_no_silence(progress: EngineProgress, clock: Clock) -> None:
    clock.now += 100
    assert progress.silent_s == 0
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    task = await waits(progress, queue)
    clock.now += 7
    assert progress.silent_s == 7
    progress.gave()
    queue.put_nowait("a")
    assert await task == "a"
    clock.now += 100
    assert progress.silent_s == 0


async def test_what_the_engine_gives_ends_the_silence_of_all_handed_out_or_not(
    progress: EngineProgress, clock: Clock
) -> None:
    tasks = [await waits(progress, asyncio.Queue()) for _ in range(2)]
    clock.now += 50
    assert progress.silent_s == 50
    progress.gave()
    assert progress.silent_s == 0
    clock.now += 5
    assert progress.silent_s == 5
    for task in tasks:
        task.cancel()


async def test_requests_that_are_given_up_add_up_until_the_engine_gives_something(
    progress: EngineProgress, clock: Clock
) -> None:
    async def give_up(*, silent: bool) -> None:
        task = await waits(progress, asyncio.Queue())
        clock.now += 30
        if not silent:
            progress.gave()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        clock.now += 1000  # with no request

    for _ in range(3):
        await give_up(silent=True)
    assert progress.silent_s == 90
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    failing = await waits(progress, queue)
    queue.put_nowait("ended")
    with pytest.raises(Ended):
        await failing
    assert progress.silent_s == 90
    for _ in range(3):
        await give_up(silent=False)
    assert progress.silent_s == 0


async def test_a_client_that_does_not_read_is_not_the_engines_silence(progress: EngineProgress, clock: Clock) -> None:
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    for one in ("a", "b", None):
        queue.put_nowait(one)
    read = []
    async for output in progress.watch(outputs(queue)):
        read.append(output)
        clock.now += 3600
        assert progress.silent_s == 0
    assert read == ["a", "b"]
    assert progress.silent_s == 0


async def test_the_engine_is_told_when_its_answer_is_not_read_to_the_end(progress: EngineProgress) -> None:
    closed = []

    async def engine() -> AsyncGenerator[str, None]:
        try:
            yield "a"
        finally:
            closed.append(True)

    watched = progress.watch(engine())
    assert await anext(watched) == "a"
    await watched.aclose()
    assert closed == [True]
