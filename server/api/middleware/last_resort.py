"""Answers exceptions that nothing else handled, and logs them with their traceback.

Design decision: inside the request id and the access log, so that even a 500 carries its id and is logged as one. The
framework would answer outside of them.
"""

from __future__ import annotations

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.error_handlers import ExceptionHandler


class LastResort:
    """Pure ASGI middleware. An exception after the response began goes on, for the server to cut the connection."""

    def __init__(self, app: ASGIApp, *, handle_unexpected: ExceptionHandler) -> None:
        self._app = app
        self._handle_unexpected = handle_unexpected
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except ClientDisconnect:
            return
        except Exception as error:
            self._log.exception("request failed", path=scope["path"])
            if started:
                raise
            response = await self._handle_unexpected(Request(scope), error)
            await response(scope, receive, send)
