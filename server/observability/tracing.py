"""A trace of every request through the gateway, which the engine's own spans continue (OpenTelemetry).

    POST /v1/chat/completions            its parent is the client's traceparent, if one was sent
        resolve                          who asks, and for which adapter
        admission                        quotas and the queue
        engine                           until the last byte of the answer
            llm_request                  vLLM's, which finds its parent in the traceparent header

The stages of an inference request follow each other: where one begins, the one before it ends.

Design decision: not opentelemetry-instrumentation-asgi. It keeps the current span in a context variable, but a server
may start a request in the context of the one before it on the same connection; and it has no place for the stages.

Names of attributes are OpenTelemetry's semantic conventions, and "tinylora.*". Those of generative AI are on the stage
`engine` (genai.py).
"""

from __future__ import annotations

import time
from http import HTTPStatus

from opentelemetry.context import Context
from opentelemetry.semconv.attributes.client_attributes import CLIENT_ADDRESS
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_PATH, URL_SCHEME
from opentelemetry.semconv.attributes.user_agent_attributes import USER_AGENT_ORIGINAL
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from server.core.genai_call import GenAiCall
from server.core.request_state import RawHeaders, RequestState, RequestUsage
from server.observability.genai import attributes_of, usage_attributes
from server.observability.http_metrics import METHODS

TENANT, ADAPTER, REQUEST_ID = "tinylora.tenant", "tinylora.adapter", "tinylora.request_id"
TRACER = "tinylora"
RESOLVE, ADMISSION, ENGINE = "resolve", "admission", "engine"
# OpenTelemetry's value of the attribute for an unknown method, and what stands for one in a span's name.
OTHER_METHOD, OTHER_METHOD_NAME = "_OTHER", "HTTP"
# Its value of error.type where there is no better one.
OTHER_ERROR = "_OTHER"
_PROPAGATOR = TraceContextTextMapPropagator()
_TRACE_HEADERS = frozenset(name.encode() for name in _PROPAGATOR.fields)


class RequestTrace:
    """The span of one request, and that of the stage that the request is in."""

    def __init__(self, tracer: Tracer, scope: Scope, state: RequestState) -> None:
        self._tracer = tracer
        self._began_ns = time.time_ns()
        headers = Headers(scope=scope)
        is_known = state.method in METHODS
        self._method = state.method if is_known else OTHER_METHOD_NAME
        method = state.method if is_known else OTHER_METHOD
        attributes = {HTTP_REQUEST_METHOD: method, URL_PATH: state.path, URL_SCHEME: scope.get("scheme", "http")}
        attributes[REQUEST_ID] = state.id
        if scope.get("client"):
            attributes[CLIENT_ADDRESS] = scope["client"][0]
        if "user-agent" in headers:
            attributes[USER_AGENT_ORIGINAL] = headers["user-agent"]
        self.span = tracer.start_span(
            self._method,
            # With all lines of a header that came in several, as tracestate may.
            _PROPAGATOR.extract({name: headers.getlist(name) for name in _PROPAGATOR.fields}),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=self._began_ns,
        )
        self._context = set_span_in_context(self.span, Context())
        self._stage: Span | None = None

    def enter_admission(self) -> None:
        """The first stage, `resolve`, has lasted since the request began; it ends, and `admission` begins."""
        self._stage = self._tracer.start_span(RESOLVE, self._context, start_time=self._began_ns)
        self._enter(ADMISSION)

    def enter_engine(self, headers: RawHeaders, call: GenAiCall | None) -> RawHeaders:
        """The stage `engine` begins. Returns `headers` with its span as the parent of the engine's own."""
        stage = self._enter(ENGINE)
        if call is not None:
            stage.set_attributes(attributes_of(call))
        return _handed_on(headers, stage)

    def _enter(self, name: str) -> Span:
        now_ns = time.time_ns()
        if self._stage is not None:
            self._stage.end(now_ns)
        self._stage = self._tracer.start_span(name, self._context, start_time=now_ns)
        return self._stage

    def end(self, state: RequestState, error: BaseException | None) -> None:
        """The request has ended, with `error` where an exception left the app."""
        self._end_stage(state.usage)
        if state.route is not None:
            self.span.update_name(f"{self._method} {state.route}")
            self.span.set_attribute(HTTP_ROUTE, state.route)
        if state.principal is not None:
            self.span.set_attribute(TENANT, state.principal.tenant.name)
        if state.adapter is not None:
            self.span.set_attribute(ADAPTER, state.adapter)
        if state.status is not None:
            self.span.set_attribute(HTTP_RESPONSE_STATUS_CODE, state.status)
        if (kind := _error_type(state, error)) is not None:
            self.span.set_attribute(ERROR_TYPE, kind)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()

    def _end_stage(self, usage: RequestUsage | None) -> None:
        if self._stage is None:
            return
        if usage is not None:
            self._stage.set_attributes(usage_attributes(usage))
        self._stage.end()


def _error_type(state: RequestState, error: BaseException | None) -> str | None:
    """None where the server has nothing to answer for."""
    if error is not None:
        return type(error).__name__
    if state.status is not None and state.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return str(state.status)
    return OTHER_ERROR if state.broke_off else None


def _handed_on(headers: RawHeaders, parent: Span) -> RawHeaders:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(parent, Context()))
    kept = [(name, value) for name, value in headers if name not in _TRACE_HEADERS]
    return [*kept, *((name.encode(), value.encode()) for name, value in carrier.items())]
