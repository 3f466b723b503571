"""What runs as long as an app does, beside what the engine runs.

Design decision: Starlette knows one lifespan per app, and the engine sets its own when it is mounted. Ours is put
around it and knows nothing of it: ours begins first, and ends when the engine's has ended and no request runs any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI


def run_with(app: FastAPI, running: AbstractAsyncContextManager[None]) -> None:
    """Enter `running`, once, around the lifespan that `app` has."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        async with running, inner(started) as state:
            yield state

    app.router.lifespan_context = lifespan


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
