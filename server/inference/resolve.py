"""From the body of an HTTP request to an InferenceRequest: read and parsed once, its adapter found, and rewritten.

`adapter` is taken out of the body, `model` becomes the adapter's name, and the gateway's own fields are set
(gateway_fields.py). A body that needs no change goes on byte for byte. JSON that is no object is the engine's to
refuse, and so is a body that is not said to be JSON. All are bounded: the framework reads bodies of any type before it
looks at them.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from server.core.errors import PayloadTooLarge
from server.core.genai_call import genai_call
from server.core.idempotency import idempotency_key_of
from server.core.json_text import parse_json
from server.core.json_values import VALUE_BYTES, check_values
from server.core.off_loop import off_loop
from server.core.paths import MODEL_ROUTES, RESPONSES_PATH
from server.core.principal import Principal
from server.core.request_body import read_body, read_json
from server.core.request_state import RawHeaders, held_body, principal_of, state_of
from server.db.idempotency import IdempotencyKey
from server.engine.grammar import Grammar, grammars_of
from server.engine.protocol import Engine, ServedAdapter
from server.inference.adapter_field import AdapterField
from server.inference.answer_limits import lower_limits
from server.inference.counts import check_counts, check_media
from server.inference.engine_json import engine_json
from server.inference.gateway_fields import (
    asks_for_prompt_only,
    engine_headers,
    set_gateway_fields,
    take_priority_of_header,
)
from server.inference.media_ids import own_media_ids
from server.inference.misnomers import check_elsewhere
from server.inference.own_fields import check_own_fields
from server.inference.refused_values import leave_out_refused
from server.inference.request import InferenceRequest
from server.inference.responses.plan import ResponsePlan
from server.inference.responses.store import ResponseStore
from server.inference.sagemaker import SAGEMAKER_PATH, say_model_in_header, take_adapter_of_header
from server.inference.service_tier import ServiceTiers, Standing
from server.inference.token_estimate import Estimate, estimate
from server.observability.metrics import GatewayMetrics


class Resolver:
    """Resolves requests to `engine`. Their bodies have at most `max_bytes` bytes and `max_values` JSON values."""

    def __init__(
        self,
        engine: Engine,
        field: AdapterField,
        tiers: ServiceTiers,
        metrics: GatewayMetrics,
        responses: ResponseStore,
        *,
        max_bytes: int,
        max_values: int,
    ) -> None:
        self._engine = engine
        self._tiers = tiers
        self._field = field
        self._metrics = metrics
        self._responses = responses
        self._max_bytes = max_bytes
        self._max_values = max_values

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, not parsed. Raises ApiError (400, 413, 415, 503) and ClientDisconnect."""
        # The engine reads the bodies of some routes as JSON whatever they are said to be.
        read = read_json if scope["path"] in MODEL_ROUTES else read_body
        body = await read(Headers(scope=scope), receive, self._max_bytes, "max_request_bytes")
        values = await off_loop(len(body), check_values, body, self._max_values, "max_request_values")
        held_body(scope).add(values * VALUE_BYTES)
        return body

    async def resolve(self, scope: Scope, receive: Receive) -> InferenceRequest:
        """Read and resolve a request with a JSON body. Raises the ApiError that says why it cannot run."""
        body = await self.read(scope, receive)
        principal, path = principal_of(scope), scope["path"]
        payload = await off_loop(len(body), _parsed, body)
        if payload is None:
            return InferenceRequest(principal, path, _headers(scope, {}, len(body)), body)
        check_counts(payload, path)
        has_media = await off_loop(len(body), check_media, payload)
        runs_model = path in MODEL_ROUTES
        if path == SAGEMAKER_PATH:
            take_adapter_of_header(payload, scope)
        if runs_model:
            take_priority_of_header(payload, scope)
            check_elsewhere(scope)
            await off_loop(len(body), check_own_fields, payload, path, self._engine.why_no_tools)
        served = await self._adapter(payload, principal)
        unchanged = served is None and "adapter" not in payload and not runs_model
        payload.pop("adapter", None)
        background = state_of(scope).background
        standing = await self._settle(payload, principal, background=background) if runs_model else Standing()
        grammars = await self._grammars(payload, len(body)) if runs_model else ()
        model = self._engine.base_models[0] if served is None else served.name  # which the answer will name
        call = None
        if runs_model:
            call = genai_call(path, payload, model, self._engine.base_models[0], standing.tier)
        if served is not None:
            payload["model"] = served.name
        response = await self._plan(payload, scope, body, model) if path == RESPONSES_PATH else None
        if has_media or response is not None:  # which may go on from one with media
            # Behind what is stored of it, where names are those that the client knows.
            unchanged = not await off_loop(len(body), own_media_ids, payload, principal.tenant.id) and unchanged
        rewritten = await off_loop(len(body), engine_json, payload)
        if response is not None and response.background:
            await off_loop(len(rewritten), self._engine.check_request, path, payload)
        body = body if unchanged else rewritten
        return InferenceRequest(
            principal,
            path,
            _headers(scope, payload, len(body)),
            body,
            served,
            prompt_only=asks_for_prompt_only(payload),
            estimate=await self._estimate(payload, scope) if runs_model else None,
            standing=standing,
            background=background,
            call=call,
            grammars=grammars,
            response=response,
        )

    async def _adapter(self, payload: dict[str, Any], principal: Principal) -> ServedAdapter | None:
        with self._metrics.resolve_seconds.time():
            served = await self._field.resolve(payload, principal)
        return None if served is None else await self._field.prepare(served, payload, principal)

    async def _plan(self, payload: dict[str, Any], scope: Scope, body: bytes, model: str) -> ResponsePlan:
        """What the request is to become, answered by `model`; `payload` then has the whole conversation."""
        size = len(body)
        plan, added = await self._responses.plan(payload, principal_of(scope), size, model)
        if size + added > self._max_bytes:
            raise PayloadTooLarge(
                f"With what it goes on from the request has {size + added} bytes, expected at most {self._max_bytes} "
                "(the server's setting max_request_bytes)."
            )
        held_body(scope).add(added)
        if plan.background and (key := idempotency_key_of(Headers(scope=scope))) is not None:
            fingerprint = await off_loop(size, _fingerprint, body)
            plan = replace(plan, key=IdempotencyKey(principal_of(scope).tenant.id, key, fingerprint))
        return plan

    async def _grammars(self, payload: dict[str, Any], size: int) -> tuple[Grammar, ...]:
        return await off_loop(size, grammars_of, payload, all_tools=self._engine.constrains_all_tools)

    async def _settle(self, payload: dict[str, Any], principal: Principal, *, background: bool) -> Standing:
        """Set what only a request that runs the model has; returns how soon it is served."""
        standing = await self._tiers.settle(payload, principal, background=background)
        set_gateway_fields(payload, principal.tenant.id, background=background)
        leave_out_refused(payload)
        lower_limits(payload, self._engine.max_model_len, has_thinking_budgets=self._engine.has_thinking_budgets)
        return standing

    async def _estimate(self, payload: dict[str, Any], scope: Scope) -> Estimate:
        size, longest, template = held_body(scope).bytes, self._engine.max_model_len, self._engine.template_cost
        return await off_loop(size, estimate, payload, longest, template, path=scope["path"])


def _parsed(body: bytes) -> dict[str, Any] | None:
    """None when it is no object, or nothing at all. Raises InvalidJson."""
    payload = parse_json(body) if body else None
    return payload if isinstance(payload, dict) else None


def _fingerprint(body: bytes) -> str:
    """Of a request for a background response, which no other write has."""
    return hashlib.sha256(b"response.create\0" + body).hexdigest()


def _headers(scope: Scope, payload: dict[str, Any], length: int) -> RawHeaders:
    """The headers of the request with the body as it is now: whole, and of this length."""
    kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")]
    priority = payload.get("priority") if scope["path"] in MODEL_ROUTES else None
    headers = engine_headers([*kept, (b"content-length", str(length).encode())], priority)
    return say_model_in_header(headers, payload) if scope["path"] == SAGEMAKER_PATH else headers
