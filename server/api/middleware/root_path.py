"""The server below a path of a proxy that leaves the path as it is: /llm/v1/models is /v1/models (--root-path /llm).

Most proxies take the prefix off, and then nothing is needed; AWS's load balancer cannot. Without the prefix every path
stays what it was, for workers and probes, which do not come through the proxy.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.middleware.short_paths import ALIASES
from server.core.paths import MODEL_ROUTES, OPEN_PATHS, OPERATIONS, is_below

_VALID = re.compile(r"(/[A-Za-z0-9._~-]+)+")
# What workers, probes and users ask for without a prefix: with one of these names taken off, it would be gone.
_TAKEN = (
    "/v1", "/v2", "/console", "/tokenize", "/detokenize", "/tokenizer_info", "/ping", "/version", "/load", *ALIASES,
    *sorted(OPEN_PATHS | OPERATIONS | MODEL_ROUTES),
)  # fmt: skip


def checked_root_path(root_path: str | None) -> str:
    """Without the slash at its end; empty for none. ValueError says what is wrong with it."""
    path = (root_path or "").rstrip("/")
    if path and not _VALID.fullmatch(path):
        raise ValueError(f"--root-path is {root_path!r}, expected a path such as /llm")
    own = next((one for one in _TAKEN if path and (is_below(path, (one,)) or is_below(one, (path,)))), None)
    if own is not None:
        raise ValueError(
            f"--root-path is {root_path!r}, but the server has paths of its own at {own}; give only what the proxy has "
            "before those, such as /llm for /llm/v1/models"
        )
    return path


class RootPath:
    """Pure ASGI middleware, outside of all others, which see the paths that the routes have."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and is_below(scope["path"], (self._root_path,)):
            scope = {**scope, "path": scope["path"][len(self._root_path) :] or "/"}
        await self._app(scope, receive, send)
