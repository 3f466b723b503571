"""/adapters and /usage as other names of /v1/adapters and /v1/usage.

Design decision: the path is rewritten, outside of AuthMiddleware, and routes are not registered twice: the short ones
would bypass whatever guards /v1.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

ALIASES = ("/adapters", "/usage")
PREFIX = "/v1"


class ShortPaths:
    """Pure ASGI middleware, outside of those that check paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(
            scope["path"] == alias or scope["path"].startswith(f"{alias}/") for alias in ALIASES
        ):
            raw_path = scope.get("raw_path") or scope["path"].encode()
            scope = {**scope, "path": PREFIX + scope["path"], "raw_path": PREFIX.encode() + raw_path}
        await self._app(scope, receive, send)
