"""Gives every request an id: the client's `x-request-id` if it is sane, else a new one; returned on every response.

Design decision: the id is in the log's context for as long as the request runs, and the engine gets it as the header it
reads anyway, so that both logs and the client speak of the same request.
"""

from __future__ import annotations

import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


class RequestId:
    """Pure ASGI middleware, outside of all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        headers = [(name, value) for name, value in scope["headers"] if name != HEADER.encode()]
        scope = {**scope, "headers": [*headers, (HEADER.encode(), request_id.encode())]}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


def request_id_of(headers: Headers) -> str:
    """The client's id, or a new one when it sent none that is fit for headers and logs."""
    sent = headers.get(HEADER, "")
    return sent if _SANE.fullmatch(sent) else uuid.uuid4().hex
