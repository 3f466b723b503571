"""A server without keys: every request is from the default tenant.

It checks nothing, and is to be put where a middleware that checks keys would be.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.principal import OPEN_PRINCIPAL


class OpenAccess:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope.setdefault("state", {})["principal"] = OPEN_PRINCIPAL
        await self._app(scope, receive, send)
