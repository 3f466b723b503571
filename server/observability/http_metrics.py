"""How long HTTP requests take, by route and class of status.

Design decision: two middlewares. Only the router knows which route a request took, and only the outermost middleware
sees all of its time; between them others may have copied the scope, but its `state` is one object.

The label is the route's template ("/v1/adapters/{name:path}"), never a path that a client chose: the number of time
series is bounded by the code. Streams count until their last byte.
"""

from __future__ import annotations

import time

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.request_state import state_of

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
# Refused before it reached the router, or a path that no route has.
NO_ROUTE = "none"
# What nginx calls a request whose client left before the answer.
LEFT = "499"


class NoteRoute:
    """Pure ASGI middleware, to be the innermost one: puts the route's template into the state of the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            # The router writes into the scope that it is given.
            template = getattr(scope.get("route"), "path", None)
            if template is not None:
                state_of(scope).route = template


class HttpMetrics:
    """Pure ASGI middleware, outside of all that refuse requests. `seconds` has the labels method, route, status."""

    def __init__(self, app: ASGIApp, *, seconds: Histogram) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: str | None = None
        began = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = f"{message['status'] // 100}xx"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
            labels = (method, state_of(scope).route or NO_ROUTE, status or LEFT)
            self._seconds.labels(*labels).observe(time.perf_counter() - began)
