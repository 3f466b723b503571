"""Gives every request an id: the client's `x-request-id` if it is sane, else a new one; returned on every response.

Design decision: what the engine reads in that header, and makes the name of its own request, is always a new id. A
client may use one id twice, or another tenant's, and the engine takes two requests of one id for one. Where the two
ids differ, the log's line has both, and so finds what the engine logged.

The log's context begins empty: of requests that come behind each other on one connection (HTTP pipelining), the server
starts each in the context of the one before it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.request_state import RequestState, put_state

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


class RequestId:
    """Pure ASGI middleware, outside of all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        engine_id = uuid.uuid4().hex
        sent = Headers(scope=scope).get(HEADER, "")
        request_id = sent if _SANE.fullmatch(sent) else engine_id
        others = [(name, value) for name, value in scope["headers"] if name != HEADER.encode()]
        put_state(scope, RequestState(request_id))
        scope = {**scope, "headers": [*others, (HEADER.encode(), engine_id.encode())]}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        shown = {"request_id": request_id}
        if request_id != engine_id:
            shown["engine_request_id"] = engine_id
        with _log_context(**shown):
            await self._app(scope, receive, send_with_id)


@contextmanager
def _log_context(**values: str) -> Iterator[None]:
    """The log's context is `values` alone within the block, and what it was before after it."""
    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**values)
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**before)
