"""Routes of the engine that are not served here, because they would bypass the queue, quotas and usage; and of OpenAI's
that are missing.

Design decision: refused with a reason, and not removed from the engine's routers: a client learns that the route is
missing on purpose, and the engine's code stays as it is.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import NotFound
from server.core.paths import ABSENT_ROUTES, REFUSED_ROUTES

_REFUSED = REFUSED_ROUTES | ABSENT_ROUTES


class RefusedRoutes:
    """Pure ASGI middleware. It refuses WebSockets of any path: the gateway has none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = _REFUSED.get(scope["path"]) if scope["type"] == "http" else None
        if scope["type"] == "websocket":
            why = _REFUSED.get(scope["path"], "there are no WebSockets")
        if why is not None:
            refusal = NotFound(f"{scope['path']} is not served here: {why}.", code="not_supported")
            await response_to(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)
