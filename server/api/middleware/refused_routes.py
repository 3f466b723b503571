"""Routes of the engine that are not served here, because they would run the model past queue, quotas and usage.

Design decision: refused by name with a sentence, not left out of the engine's routers: whoever looks for one learns
that it is not served on purpose, and there is nothing of the engine to change.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import NotFound
from server.core.paths import REFUSED_ROUTES


class RefusedRoutes:
    """Pure ASGI. WebSockets are refused whatever their path: none is the gateway's own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = REFUSED_ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if scope["type"] == "websocket":
            why = REFUSED_ROUTES.get(scope["path"], "there are no WebSockets")
        if why is not None:
            refusal = NotFound(f"{scope['path']} is not served here: {why}.", code="not_supported")
            await response_to(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)
