"""What runs as long as an app does, beside what the engine runs.

Starlette knows one lifespan per app, and the engine sets its own when it is mounted. Ours is put around it: it begins
first, and ends when the engine's has ended and no request runs any more. What asks the engine by itself is put within.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI


def run_within(app: FastAPI, running: AbstractAsyncContextManager[None]) -> None:
    """Enter `running`, once, within the lifespan that `app` has: it ends before what it uses does."""
    outer = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        async with outer(started) as state, running:
            yield state

    app.router.lifespan_context = lifespan


def run_with(app: FastAPI, running: AbstractAsyncContextManager[None]) -> None:
    """Enter `running`, once, around the lifespan that `app` has."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: FastAPI) -> AsyncIterator[Any]:
        async with running, inner(started) as state:
            yield state

    app.router.lifespan_context = lifespan
