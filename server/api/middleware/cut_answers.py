"""Answers the requests that the end of the server cuts, when it has waited for them for as long as it may: with 503,
and not with uvicorn's plain 500. A stream that has begun just ends, which its client sees as a connection that broke.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import Unavailable
from server.core.request_state import background_principal, state_of
from server.core.retry_headers import ENDING_RETRY_S, retry_headers


class Flag(Protocol):
    """Of `asyncio` or `threading`."""

    def is_set(self) -> bool:
        """Whether it was set."""


class CutAnswers:
    """Pure ASGI middleware. ending: set when the server is to end, from when on it alone cancels clients' requests."""

    def __init__(self, app: ASGIApp, *, ending: Flag) -> None:
        self._app = app
        self._ending = ending
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http" or not self._ending.is_set() or background_principal(scope) is not None:
                raise
            self._log.warning("the end of the server cuts an answer: --shutdown-timeout is over", path=scope["path"])
            state_of(scope).broke_off = True
            if state_of(scope).status is None:
                error = Unavailable(
                    "This server is ending, and the answer took longer than it waits for; send the request again.",
                    code="draining",
                    headers=retry_headers(ENDING_RETRY_S),
                )
                await response_to(error)(scope, receive, send)
