"""The outermost middleware: gives every request its id and state, and reads the state when the request has ended.

The id is the client's `x-request-id` if that is sane, else a new one, and is returned on every response.

Design decision: what the engine reads in that header, and makes the name of its own request, is always a new id, and
not the client's as libraries for request ids (asgi-correlation-id) would have it. A client may use one id twice, or
another tenant's, and the engine takes two requests of one id for one. Where the two ids differ, the log's line has
both, and so finds what the engine logged.

The log's context begins empty: of requests that come behind each other on one connection (HTTP pipelining), the server
starts each in the context of the one before it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from opentelemetry.trace import Tracer
from prometheus_client import Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.paths import OPERATIONS
from server.core.request_state import RequestState, put_state
from server.observability.http_metrics import observe_seconds
from server.observability.logging import log_request
from server.observability.tracing import RequestTrace

HEADER = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


class Observe:
    """Pure ASGI middleware. `seconds` is the histogram of HTTP requests; without a `tracer` nothing is traced."""

    def __init__(self, app: ASGIApp, *, seconds: Histogram, tracer: Tracer | None = None) -> None:
        self._app = app
        self._seconds = seconds
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        engine_id = uuid.uuid4().hex
        sent = Headers(scope=scope).get(HEADER, "")
        state = RequestState(
            sent if _SANE.fullmatch(sent) else engine_id, method=scope.get("method", "GET"), path=scope["path"]
        )
        put_state(scope, state)
        others = [(name, value) for name, value in scope["headers"] if name != HEADER.encode()]
        scope = {**scope, "headers": [*others, (HEADER.encode(), engine_id.encode())]}

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                state.status = int(message["status"])
                MutableHeaders(scope=message)[HEADER] = state.id
            await send(message)

        shown = {} if state.id == engine_id else {"engine_request_id": engine_id}
        with _log_context(request_id=state.id, **shown), self._observed(scope, state):
            await self._app(scope, receive, send_and_note)

    @contextmanager
    def _observed(self, scope: Scope, state: RequestState) -> Iterator[None]:
        """Counts, logs and traces the block; only HTTP requests, and of those to /health and the like no trace."""
        if scope["type"] != "http":
            yield
            return
        trace = None
        if self._tracer is not None and state.path not in OPERATIONS:
            trace = state.trace = RequestTrace(self._tracer, scope, state)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if trace is not None:
                trace.end(state, error)
            observe_seconds(self._seconds, state)
            log_request(state)


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
