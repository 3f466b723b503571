"""Admits requests to the model: quotas first, then a place in the fair queue, until the last byte of the answer.

Design decision: pure ASGI right around the engine's routes. A request holds its slot as long as the engine's handler
runs, so streams hold theirs until they end, and a client that leaves, waiting or not, frees it at once.

It concerns the routes that run the model (gateway_fields.py) and knows the parsed body from AdapterMiddleware. What a
request used comes from the engine (request_usage.py).
"""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import BadRequest, TooManyRequests
from server.core.off_loop import off_loop
from server.core.paths import MODEL_ROUTES, POOLING_ROUTES
from server.core.principal import Principal, principal_of
from server.core.request_body import replay
from server.core.request_usage import usage_of
from server.core.settings import Settings
from server.engine.protocol import Engine
from server.inference.admission_metrics import AdmissionMetrics
from server.inference.gateway_fields import priority_of
from server.inference.token_estimate import Estimate, estimate
from server.limits.body_memory import held_body
from server.limits.fair_queue import FairQueue, Place, QueueFull
from server.limits.quotas import Quotas, Ticket
from server.limits.rate_limit_headers import retry_headers

QUEUE_FULL_RETRY_S = 1.0
# Nobody's share is nothing.
MIN_WEIGHT = 1e-3


class Admission:
    """No sequence is longer than `max_model_len` tokens."""

    def __init__(
        self, app: ASGIApp, *, quotas: Quotas, queue: FairQueue, metrics: AdmissionMetrics, max_model_len: int
    ) -> None:
        self._app = app
        self._quotas = quotas
        self._queue = queue
        self._metrics = metrics
        self._max_model_len = max_model_len

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Without a payload there is nothing to run: the engine refuses bodies that are not JSON objects.
        payload = scope.get("state", {}).pop("payload", None) if scope["type"] == "http" else None
        if payload is None or scope["path"] not in MODEL_ROUTES:
            await self._app(scope, receive, send)
            return
        principal = principal_of(scope)
        generates = scope["path"] not in POOLING_ROUTES
        expected = await off_loop(held_body(scope).bytes, estimate, payload, self._max_model_len, generates=generates)
        try:
            if generates and not principal.may("admin"):
                self._check_width(expected)
            ticket = self._quotas.admit(principal, expected.tokens)
            place = self._enter(principal, ticket, payload, expected)
        except BadRequest as error:
            await response_to(error)(scope, receive, send)
            return
        except TooManyRequests as error:
            self._metrics.observe_rejected(principal.tenant, error.reason)
            await response_to(error)(scope, receive, send)
            return
        exchange = Exchange(receive, send, ticket)
        try:
            if await self._granted(place, principal, exchange):
                await self._app(scope, exchange.receive, exchange.send)
        finally:
            tokens: int | None = usage_of(scope).total_tokens
            if not tokens and exchange.left:
                tokens = None  # the engine may tell only of complete answers, and the client did not wait for this one
            self._queue.leave(place, tokens)
            ticket.close(tokens)

    def _check_width(self, expected: Estimate) -> None:
        """BadRequest for more sequences than run at once: they would hold all slots, over and over, until they end."""
        if expected.sequences > self._queue.max_running:
            raise BadRequest(
                f"The request asks for {expected.sequences} answers (n times the number of prompts), expected at most "
                f"{self._queue.max_running}, as many as run at once here; send several requests instead.",
                param="n",
                code="too_many_answers",
            )

    def _enter(self, principal: Principal, ticket: Ticket, payload: dict[str, object], expected: Estimate) -> Place:
        tenant = principal.tenant
        try:
            return self._queue.enter(
                tenant.id,
                cost=expected.tokens,
                weight=max(tenant.weight, MIN_WEIGHT),
                width=expected.sequences,
                priority=priority_of(payload),
            )
        except QueueFull:
            ticket.cancel()
            raise TooManyRequests(
                f"{self._queue.max_waiting} requests of tenant {tenant.name} are waiting for the model, as many as "
                "may wait. Try again when some of them have been served.",
                counted="requests",
                reason="queue_full",
                headers={**ticket.headers(), **retry_headers(QUEUE_FULL_RETRY_S)},
            ) from None

    async def _granted(self, place: Place, principal: Principal, exchange: Exchange) -> bool:
        """Waits until the request may run: True, or until its client has left: False."""
        began = time.monotonic()
        if not place.granted.done() and await exchange.left_before(place.granted):
            return False
        self._metrics.observe_wait(principal.tenant, time.monotonic() - began)
        return True


def add_admission(app: FastAPI, settings: Settings, engine: Engine, registry: CollectorRegistry) -> None:
    """Put Admission around the routes of `app`; its metrics go into `registry`."""
    queue = FairQueue(
        max_running=settings.max_running_requests or engine.max_num_seqs, max_waiting=settings.max_queued_requests
    )
    metrics = AdmissionMetrics(registry, waiting=lambda: queue.waiting, running=lambda: queue.running)
    app.add_middleware(Admission, quotas=Quotas(), queue=queue, metrics=metrics, max_model_len=engine.max_model_len)


class Exchange:
    """A request's two channels, with the quotas in the answer's headers, and whether the client left before its end."""

    def __init__(self, receive: Receive, send: Send, ticket: Ticket) -> None:
        self._receive = receive
        self._send = send
        self._ticket = ticket
        self._answered = False
        self.left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._answered:
            self.left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(self._ticket.headers())
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    async def left_before(self, granted: asyncio.Future[None]) -> bool:
        """Waits for `granted` or for the client to leave."""
        body = await self._receive()
        # The body is complete, so that all that can come now is the end of the connection.
        leaving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((granted, leaving), return_when=asyncio.FIRST_COMPLETED)
            return leaving.done()
        finally:
            leaving.cancel()
            self._receive = replay(body["body"], self._receive)
