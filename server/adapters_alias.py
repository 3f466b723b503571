"""/adapters as another name of /v1/adapters.

Design decision: the path is rewritten before any other middleware sees it. Registering the routes twice would leave the
short ones outside whatever guards /v1, the engine's API key first of all.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

ALIAS, TARGET = "/adapters", "/v1/adapters"


class AdaptersAlias:
    """Pure ASGI middleware, to be added after those that guard paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] == ALIAS or scope["path"].startswith(f"{ALIAS}/")):
            path = scope["path"].replace(ALIAS, TARGET, 1)
            scope = {**scope, "path": path, "raw_path": TARGET.encode() + (scope.get("raw_path") or b"")[len(ALIAS) :]}
        await self._app(scope, receive, send)
