"""Refuses paths with control characters, which no route has.

Starlette compares a path by a regular expression that ends in `$`, which also matches before a line break at the end.
Whatever guards a route compares its path exactly: `/v1/chat/completions%0A` would be served, and neither queued nor
charged.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import NotFound, quoted


class PrintablePaths:
    """Pure ASGI middleware, outside of the router and of those that compare paths with its routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if any(character < " " or character == "\x7f" for character in path):
            refusal = NotFound(f"There is no route {quoted(path)}: no path has control characters.")
            await response_to(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)
