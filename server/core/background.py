"""What an app does beside its requests: now and then, to its end, or cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def repeating(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, first_s: float, every_s: float
) -> AsyncIterator[None]:
    """Awaits `work` now and then while the block runs: first after `first_s` seconds, then `every_s` after each end.

    When the block ends, the event that `work` is given is set, and `work` is awaited to its end. It is not cancelled: a
    thread that it waits for would go on without anyone knowing.
    """
    ended = asyncio.Event()

    async def repeat() -> None:
        pause = first_s
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), pause)
                return
            await work(ended)
            pause = every_s

    task = asyncio.create_task(repeat(), name=work.__qualname__)
    try:
        yield
    finally:
        ended.set()
        await task


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises. When its caller is cancelled it is still awaited to its end, as what it does in a
    thread goes on all the same; then the cancellation is raised."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen, and not told as never retrieved
        raise


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
