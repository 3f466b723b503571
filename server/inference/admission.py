"""Admits requests to the model: quotas first, then a place in the fair queue, kept until the last byte of the answer.

A request is charged by its estimate. When it has ended, what the engine counted (RequestUsage) replaces the estimate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from server.core.errors import BadRequest, TooManyRequests
from server.core.paths import POOLING_ROUTES
from server.core.principal import Principal, Tenant
from server.core.request_state import RequestUsage
from server.core.retry_headers import retry_headers
from server.core.settings import Settings
from server.engine.protocol import Engine
from server.inference.admission_metrics import AdmissionMetrics, Class
from server.inference.exchange import Exchange
from server.inference.request import InferenceRequest
from server.inference.token_estimate import Estimate
from server.limits.background_pace import BackgroundPace
from server.limits.fair_order import Place
from server.limits.fair_queue import FairQueue, QueueFull
from server.limits.quotas import Quotas, Ticket
from server.limits.spending import check_month, month_headers

QUEUE_FULL_RETRY_S = 1.0
# Of the sequences that batches may have when nobody else asks, so many times fewer beside a request.
BESIDE_SHARE = 16
# Of all sequences, so many times fewer are kept for other tenants than one that has the rest.
KEPT_SHARE = 8
# Of embeddings, scores and the like, which hold all slots until the last of them ends. OpenAI takes so many.
MAX_INPUTS = 2048
# A tenant of weight 0 still has to be served some time.
MIN_WEIGHT = 1e-3
# Of what a tier counts in the turns of tenants.
WEIGHTS: dict[str | None, float] = {"priority": 4.0}


@dataclass(slots=True)
class Turn:
    """What a charged request holds: its charges and, once it has entered, its place in the queue or in the engine."""

    request: InferenceRequest
    estimate: Estimate
    ticket: Ticket
    place: Place | None = None
    is_refused: bool = False

    @property
    def tenant(self) -> Tenant:
        return self.request.principal.tenant

    @property
    def has_to_wait(self) -> bool:
        """Whether it has entered, and its place in the engine is yet to come."""
        return self.place is not None and not self.place.granted.done()


class Admission:
    """Charges requests and has them wait. Every turn that `charge` gives has to be ended."""

    def __init__(self, quotas: Quotas, queue: FairQueue, metrics: AdmissionMetrics) -> None:
        self._quotas = quotas
        self._queue = queue
        self._metrics = metrics

    async def charge(self, request: InferenceRequest, estimate: Estimate) -> Turn:
        """Take `estimate` from the quotas of `request`.

        Raises TooManyRequests, or BadRequest for more answers than the engine generates at once; nothing is charged.
        """
        principal = request.principal
        self.check_width(request.path, principal, estimate)
        try:
            check_month(principal)
            more = {} if principal.may("admin") else month_headers(principal.tenant)
            ticket = await self._quotas.admit(principal, estimate.tokens, more, background=request.background)
            return Turn(request, estimate, ticket)
        except TooManyRequests as error:
            self._metrics.observe_rejected(principal.tenant, error.reason)
            raise

    def enter(self, turn: Turn) -> None:
        """Give `turn` a place in the queue. Raises TooManyRequests where there is none."""
        request = turn.request
        try:
            turn.place = self._queue.enter(
                turn.tenant.id,
                cost=turn.estimate.tokens,
                weight=max(turn.tenant.weight, MIN_WEIGHT) * WEIGHTS.get(request.standing.tier, 1.0),
                width=turn.estimate.sequences,
                priority=request.standing.priority,
                background=request.background,
            )
        except QueueFull:
            raise TooManyRequests(
                f"{self._queue.max_waiting} requests of tenant {turn.tenant.name} that go before this one are waiting "
                "for the model, as many as may wait. Try again when some of them have been served.",
                counted="requests",
                reason="queue_full" if _class_of(request) == "request" else "less_urgent_queue_full",
                headers={**turn.ticket.headers(), **retry_headers(QUEUE_FULL_RETRY_S)},
            ) from None

    def refuse(self, turn: Turn, error: TooManyRequests) -> None:
        """`turn` ends with `error`, and nothing is charged."""
        turn.is_refused = True
        self._metrics.observe_rejected(turn.tenant, error.reason)

    async def admit(self, turn: Turn, exchange: Exchange) -> bool:
        """Wait until the request, which has entered, may run: True, or until its client has left: False."""
        assert turn.place is not None
        began = time.monotonic()
        if turn.has_to_wait and await exchange.left_before(turn.place.granted):
            return False
        self._metrics.observe_wait(turn.tenant, _class_of(turn.request), time.monotonic() - began)
        return True

    def end(self, turn: Turn, usage: RequestUsage, *, left: bool) -> None:
        """The request has ended, or will not run: its slot is free, and what it used replaces its estimate.

        Of an answer that its client `left` the engine may have told nothing, and then the estimate stands.
        """
        tokens = None if left and not usage.total_tokens else usage.total_tokens
        if turn.place is not None:
            self._queue.leave(turn.place, tokens)
        if turn.is_refused:
            turn.ticket.cancel()
        else:
            turn.ticket.close(tokens)

    def check_width(self, path: str, principal: Principal, estimate: Estimate) -> None:
        """BadRequest for more answers than a tenant may have at once: they would hold all its slots, over and over,
        until they end; and for very many inputs of a request that generates nothing.

        An admin may ask for more.
        """
        if principal.may("admin"):
            return
        if path in POOLING_ROUTES:
            if estimate.sequences > MAX_INPUTS:
                raise BadRequest(
                    f"The request has {estimate.sequences} inputs, expected at most {MAX_INPUTS}; send several "
                    "requests instead.",
                    code="too_many_inputs",
                )
        elif estimate.sequences > self._queue.max_of_tenant:
            raise BadRequest(
                f"The request asks for {estimate.sequences} answers (n times the number of prompts), expected at most "
                f"{self._queue.max_of_tenant}, as many as a tenant may have at once; send several requests instead.",
                param="n",
                code="too_many_answers",
            )


def _class_of(request: InferenceRequest) -> Class:
    if request.background:
        return "batch"
    return "less_urgent" if request.standing.priority > 0 else "request"


def max_batch_requests(settings: Settings, engine: Engine) -> int:
    """How many lines of batches are in the engine at once while nobody waits for anything else."""
    slots = settings.max_running_requests or engine.max_num_seqs
    return min(settings.max_batch_requests or max(1, slots // 2), slots)


def new_admission(
    settings: Settings, engine: Engine, quotas: Quotas, registry: CollectorRegistry, *, has_tenants: bool
) -> Admission:
    """Admission to `engine`; its metrics go into `registry`. has_tenants: whether requests are of several."""
    slots = settings.max_running_requests or engine.max_num_seqs
    kept = max(1, slots // KEPT_SHARE) if has_tenants else 0
    of_tenant = settings.max_tenant_running_requests or max(1, slots - kept)
    alone = max_batch_requests(settings, engine)
    pace = BackgroundPace(alone, max(1, alone // BESIDE_SHARE))
    queue = FairQueue(max_running=slots, max_waiting=settings.max_queued_requests, pace=pace, max_of_tenant=of_tenant)
    metrics = AdmissionMetrics(
        registry,
        waiting=lambda: queue.waiting - queue.less_urgent_waiting,
        less_urgent_waiting=lambda: queue.less_urgent_waiting,
        running=lambda: queue.running,
        running_requests=lambda: queue.running_requests,
    )
    return Admission(quotas, queue, metrics)
