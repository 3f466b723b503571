"""The outermost middleware: gives every request its id and state, and reads the state when the request has ended.

The id is the client's `x-request-id` if that is sane, else a new one, and is returned on every response.

Design decision: the engine gets a new id in that header, never the client's, which asgi-correlation-id would pass on. A
client may use an id twice, or another tenant's, and the engine takes two requests with one id for the same. Where the
two ids differ, the log line has both, so that the engine's own lines can be found.

The log's context begins empty: with HTTP pipelining the server starts a request in the context of the one before it on
the same connection.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Iterator
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
from server.observability.stream_errors import is_server_error
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

        # Not a coroutine of its own: it runs once for every token that is streamed.
        def send_and_note(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                state.status = int(message["status"])
                MutableHeaders(scope=message)[HEADER] = state.id
            elif is_server_error(message.get("body", b"")):
                state.broke_off = True
            return send(message)

        shown = {} if state.id == engine_id else {"engine_request_id": engine_id}
        with _log_context(request_id=state.id, **shown), self._observed(scope, state):
            await self._app(scope, receive, send_and_note)

    @contextmanager
    def _observed(self, scope: Scope, state: RequestState) -> Iterator[None]:
        """Measures, logs and traces the block if it is an HTTP request; requests of probes are not traced."""
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
