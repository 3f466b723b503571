"""The way of every inference request to the engine: resolve, charge, admit, run.

    resolve   its body becomes what the engine gets, with its adapter and an estimate of its cost (resolve.py)
    charge    the estimate is taken from the quotas of its tenant and key (admission.py)
    admit     the engine is asked about its grammars (grammar_check.py), and then it waits in the fair queue for its
              turn, which it has until the last byte of its answer; one that has to wait is told before what is wrong
              with its body (body_check.py)
    run       the engine's own route answers

It covers whatever the engine serves by POST with a JSON body, not a list of paths; only those that run the model are
charged and queued. Answers pass as they come, so streams are not held back, and a client that leaves, waiting or not,
gives its place up at once.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import ApiError, BadRequest, TooManyRequests
from server.core.paths import MODEL_ROUTES, OWN_PREFIXES
from server.core.request_body import is_json, replay
from server.core.request_state import principal_of, state_of
from server.engine.protocol import Engine, TokenObserver
from server.inference.admission import Admission, Turn
from server.inference.body_check import check_body
from server.inference.exchange import Exchange
from server.inference.grammar_check import GrammarCheck
from server.inference.request import InferenceRequest
from server.inference.resolve import Resolver
from server.inference.responses.serving import Responses
from server.inference.service_tier import TierEcho
from server.inference.token_estimate import Estimate
from server.inference.usage_meter import UsageMeter
from server.observability.metrics import GatewayMetrics

ADAPTER_HEADER = "x-tinylora-adapter"
BASE_MODEL = "none"  # no adapter's: those have a version or a digest


class InferenceMiddleware:
    """Pure ASGI middleware right around the engine's routes; the gateway's own it leaves alone."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        engine: Engine,
        resolver: Resolver,
        admission: Admission,
        metrics: GatewayMetrics,
        meter: UsageMeter,
        responses: Responses,
    ) -> None:
        self._app = app
        self._engine = engine
        self._resolver = resolver
        self._admission = admission
        self._grammars = GrammarCheck(engine)
        self._metrics = metrics
        self._meter = meter
        self._responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._engine.activate(None)
        if scope["type"] != "http" or not _is_for_the_engine(scope):
            await self._app(scope, receive, send)
            return
        request: InferenceRequest | None = None
        try:
            if _is_inference(scope):
                request = await self._resolver.resolve(scope, receive)
            else:
                receive = replay(await self._resolver.read(scope, receive), receive)
        except ApiError as error:
            self._metrics.observe_unresolved(principal_of(scope).tenant, error.status)
            await response_to(error)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        if request is None:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, _answer_headers(request))
        if request.response is None:
            await self._serve(request, exchange)
        else:
            await self._responses.serve(request, request.response, exchange, self._serve)

    async def _serve(self, request: InferenceRequest, exchange: Exchange) -> None:
        """Charge, admit and run a request, and count what it used however it ends."""
        state = state_of(exchange.scope)
        state.usage = request.usage
        state.adapter = None if request.served is None else request.served.name
        if state.trace is not None:
            state.trace.enter_admission()
        self._activate(request, request.usage.add)
        try:
            with self._meter.counted(request.principal, request.served, request.usage):
                if request.estimate is None:
                    await self._run(request, exchange)
                else:
                    await self._take_turn(request, request.estimate, exchange)
        except Exception as error:
            exchange.failed(error)
            raise
        finally:
            status = HTTPStatus.INTERNAL_SERVER_ERROR.value if state.broke_off else exchange.status
            self._metrics.observe_request(request.principal.tenant, request.served, status, request.usage)
            if request.call is not None:
                self._metrics.genai.observe(request.call, self._engine.base_models[0], status, state, request.usage)

    async def _take_turn(self, request: InferenceRequest, estimate: Estimate, exchange: Exchange) -> None:
        try:
            turn = await self._admission.charge(request, estimate)
        except (BadRequest, TooManyRequests) as error:
            await exchange.refuse(error)
            return
        exchange.charged(turn.ticket)

        def observe(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> None:
            request.usage.add(prompt_tokens, completion_tokens, cached_tokens)
            turn.ticket.used(request.usage.total_tokens)

        self._activate(request, observe)
        try:
            if await self._admit(turn, exchange):
                await self._run(request, exchange)
        finally:
            self._admission.end(turn, request.usage, left=exchange.left)

    async def _admit(self, turn: Turn, exchange: Exchange) -> bool:
        """Whether the request may run, once its turn has come; False when it is refused, or its client has left."""
        try:
            if turn.request.grammars and await exchange.left_during(self._grammars.check(turn.request)):
                return False
            self._admission.enter(turn)
            if turn.has_to_wait:
                await check_body(turn.request, self._engine)
        except (BadRequest, TooManyRequests) as error:
            if isinstance(error, TooManyRequests):
                self._admission.refuse(turn, error)
            await exchange.refuse(error)
            return False
        exchange.queued()
        return await self._admission.admit(turn, exchange)

    async def _run(self, request: InferenceRequest, exchange: Exchange) -> None:
        await exchange.begins()
        trace = state_of(exchange.scope).trace
        headers = request.headers if trace is None else trace.enter_engine(request.headers, request.call)
        tier = request.standing.tier
        send = exchange.send if tier is None else TierEcho(exchange.send, tier)
        await self._app({**exchange.scope, "headers": headers}, replay(request.body, exchange.receive), send)

    def _activate(self, request: InferenceRequest, observe: TokenObserver) -> None:
        tenant = request.principal.tenant.id
        self._engine.activate(request.served, observe, prompt_only=request.prompt_only, tenant=tenant)


def _is_for_the_engine(scope: Scope) -> bool:
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") and not scope["path"].startswith(OWN_PREFIXES)


def _is_inference(scope: Scope) -> bool:
    return scope["method"] == "POST" and is_json(Headers(scope=scope))


def _answer_headers(request: InferenceRequest) -> dict[str, str]:
    if request.served is not None:
        return {ADAPTER_HEADER: request.served.name}
    return {ADAPTER_HEADER: BASE_MODEL} if request.path in MODEL_ROUTES else {}
