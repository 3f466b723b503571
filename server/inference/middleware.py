"""Gives every inference request its adapter before the engine's own route sees it.

Design decision: pure ASGI around the engine's routes. A JSON body is read and parsed once, `adapter` is taken out,
`model` becomes the adapter's name, the gateway's own fields are set (gateway_fields.py), and the body is replayed; one
that needs no change is replayed byte for byte, and responses pass as they come, so streams are not held back.

It covers whatever the engine serves by POST with a JSON body, not a list of paths. A body that is not a JSON object is
the engine's to refuse, but is bounded too: the framework reads bodies of any type before it looks at them.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import ApiError
from server.core.json_values import VALUE_BYTES, check_values
from server.core.off_loop import off_loop
from server.core.paths import MODEL_ROUTES
from server.core.principal import principal_of
from server.core.request_body import is_json, read_body, read_json, replay
from server.core.request_usage import RequestUsage
from server.engine.grammar import grammars_of
from server.engine.protocol import Engine, ServedAdapter
from server.inference.adapter_field import AdapterField
from server.inference.engine_json import engine_json
from server.inference.gateway_fields import asks_for_prompt_only, set_gateway_fields
from server.inference.misnomers import check_elsewhere, check_names
from server.inference.refused_values import leave_out_refused
from server.inference.responses import check_stored
from server.inference.sagemaker import SAGEMAKER_PATH, say_model_in_header, take_adapter_of_header
from server.inference.tools_check import check_tools
from server.inference.usage_meter import UsageMeter
from server.limits.body_memory import held_body
from server.observability.metrics import GatewayMetrics

ADAPTER_HEADER = "x-tinylora-adapter"
BASE_MODEL = "none"  # no adapter's: those have a version or a digest


class AdapterMiddleware:
    """`own_prefixes` are where the gateway's own routes live, which it leaves alone; `max_bytes` and `max_values` limit
    the others' bodies."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        engine: Engine,
        field: AdapterField,
        metrics: GatewayMetrics,
        meter: UsageMeter,
        max_bytes: int,
        max_values: int,
        own_prefixes: tuple[str, ...],
    ) -> None:
        self._app = app
        self._engine = engine
        self._field = field
        self._metrics = metrics
        self._meter = meter
        self._max_bytes = max_bytes
        self._max_values = max_values
        self._own_prefixes = own_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._engine.activate(None)
        if scope["type"] != "http" or not self._concerns(scope):
            await self._app(scope, receive, send)
            return
        try:
            # The engine reads the bodies of some routes as JSON whatever they are said to be.
            read = read_json if scope["path"] in MODEL_ROUTES else read_body
            body = await read(Headers(scope=scope), receive, self._max_bytes, "max_request_bytes")
            values = await off_loop(len(body), check_values, body, self._max_values, "max_request_values")
            held_body(scope).add(values * VALUE_BYTES)
            may_run = _is_json(scope)
            served, body = await self._rewrite(body, scope) if may_run else (None, body)
        except ApiError as error:
            self._metrics.observe_unresolved(principal_of(scope).tenant, error.status)
            await response_to(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if may_run:
            await self._run(scope, replay(body, receive), send, served, len(body))
        else:
            await self._app(scope, replay(body, receive), send)

    def _concerns(self, scope: Scope) -> bool:
        return scope["method"] not in ("GET", "HEAD", "OPTIONS") and not scope["path"].startswith(self._own_prefixes)

    async def _rewrite(self, body: bytes, scope: Scope) -> tuple[ServedAdapter | None, bytes]:
        """The adapter the request asks for, and the body to go on with; a JSON object is put beside it, parsed."""
        try:
            payload: Any = await off_loop(len(body), json.loads, body)
        except (ValueError, RecursionError):
            return None, body
        if not isinstance(payload, dict):
            return None, body
        principal, runs_model = principal_of(scope), scope["path"] in MODEL_ROUTES
        if scope["path"] == SAGEMAKER_PATH:
            take_adapter_of_header(payload, scope)
        if runs_model:
            check_names(payload)
            check_elsewhere(scope)
        scope["state"]["payload"] = payload
        with self._metrics.resolve_seconds.time():
            served = await self._field.resolve(payload, principal)
        unchanged = served is None and "adapter" not in payload and not runs_model
        if served is not None:
            served = await self._field.prepare(served, payload, principal)
        payload.pop("adapter", None)
        if runs_model:
            check_stored(payload, scope["path"])
            check_tools(payload, self._engine.why_no_tools)
            set_gateway_fields(payload, principal.tenant.id)
            leave_out_refused(payload)
            scope["state"]["grammars"] = grammars_of(payload, all_tools=self._engine.constrains_all_tools)
        if served is not None:
            payload["model"] = served.name
        rewritten = await off_loop(len(body), engine_json, payload)
        return served, body if unchanged else rewritten

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, served: ServedAdapter | None, body_length: int
    ) -> None:
        scope = {**scope, "headers": _with_length(scope["headers"], body_length)}
        if scope["path"] == SAGEMAKER_PATH:
            say_model_in_header(scope, scope["state"].get("payload", {}))
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        principal = principal_of(scope)
        usage = scope["state"]["usage"] = RequestUsage()
        self._engine.activate(served, usage.add, prompt_only=asks_for_prompt_only(scope["state"].get("payload", {})))
        if served is not None:
            scope["state"]["adapter"] = served.name

        async def send_with_header(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if served is not None or scope["path"] in MODEL_ROUTES:
                    MutableHeaders(scope=message)[ADAPTER_HEADER] = BASE_MODEL if served is None else served.name
            await send(message)

        try:
            with self._meter.counted(principal, served, usage):
                await self._app(scope, receive, send_with_header)
        finally:
            self._metrics.observe_request(principal.tenant, served, status, usage)


def _is_json(scope: Scope) -> bool:
    return scope["method"] == "POST" and is_json(Headers(scope=scope))


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Headers of the body as it is now: whole, and of this length."""
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]
