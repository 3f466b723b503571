"""Answers exceptions that nothing else handled, with a 500, and logs them with their traceback.

Design decision: not by Starlette's handler of Exception, which answers outside of all middlewares: a 500 of this one
has a request id and CORS headers, and Anthropic's shape where that is due.
"""

from __future__ import annotations

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.error_handlers import ExceptionHandler
from server.core.request_state import state_of


class UnhandledErrors:
    """Pure ASGI middleware. An exception after the response began goes on, for the server to cut the connection."""

    def __init__(self, app: ASGIApp, *, handle: ExceptionHandler) -> None:
        self._app = app
        self._handle = handle
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return
        except Exception as error:
            self._log.exception("request failed", path=scope["path"])
            if state_of(scope).status is not None:
                raise
            response = await self._handle(Request(scope), error)
            await response(scope, receive, send)
