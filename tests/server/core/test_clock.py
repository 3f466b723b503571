"""One clock, which a test can stop for all that it starts."""

import asyncio
import time

from starlette.concurrency import run_in_threadpool

from server.core.clock import following, now


def test_it_is_the_time() -> None:
    before = int(time.time())
    assert before <= now() <= int(time.time())


async def test_a_stopped_clock_is_that_of_tasks_and_threads_too_and_of_nobody_else() -> None:
    async def task() -> int:
        return now()

    with following(lambda: 1000.9):
        assert now() == 1000
        assert await asyncio.create_task(task()) == 1000
        assert await asyncio.to_thread(now) == await run_in_threadpool(now) == 1000
        with following(lambda: 2000):
            assert now() == 2000
        assert now() == 1000
    assert now() >= time.time() - 1
