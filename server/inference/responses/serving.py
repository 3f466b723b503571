"""How a request to /v1/responses is answered: by the engine, or in the background with what is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.core.errors import ApiError
from server.core.idempotency import REPLAYED_HEADER
from server.inference.exchange import Exchange
from server.inference.request import InferenceRequest
from server.inference.responses.answer import ResponseAnswer
from server.inference.responses.attended import AttendedResponse
from server.inference.responses.background import BackgroundResponses, Serve
from server.inference.responses.event_stream import EventStreams
from server.inference.responses.leases import RENEW_S
from server.inference.responses.plan import ResponsePlan
from server.inference.responses.store import ResponseStore

_EVENTS = "text/event-stream"


class Responses:
    """Those of one gateway; `store` has them all."""

    def __init__(self, store: ResponseStore) -> None:
        self.store = store
        self._background = BackgroundResponses(store)
        self._streams = EventStreams(store, self._background.logs)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def tending(self, renew_s: float = RENEW_S) -> AbstractAsyncContextManager[None]:
        """Looks after the responses that run while the block runs."""
        return self._background.tending(renew_s)

    def running_in_background(self) -> int:
        """How many run that no connection waits for."""
        return self._background.running

    async def serve(self, request: InferenceRequest, plan: ResponsePlan, exchange: Exchange, serve: Serve) -> None:
        """Answer `request` through `exchange`; `serve` takes a request its whole way."""
        if plan.background:
            await self._start(request, plan, exchange, serve)
            return
        attended = AttendedResponse(self.store, self._background.leases, request.principal, plan)
        answer = ResponseAnswer(plan, attended.end, exchange.send, attended.begin)
        try:
            await serve(request, Exchange(exchange.scope, exchange.receive, answer.send, {}))
        except ClientDisconnect:
            raise
        except Exception:
            if not answer.streams:
                raise
            self._log.exception("stream of a response broke off", response=plan.id)
            await answer.fail()
        finally:
            await attended.close()

    def left(self, response_id: str) -> None:
        """A response has been cancelled or deleted: its request ends, if it is one of this gateway."""
        self._background.leave(response_id)

    async def stream(self, tenant_id: int, response_id: str, number: int) -> Response:
        """The stream of a background response from event `number` on. Raises NotFound, BadRequest, TooManyRequests."""
        if await self._streams.check(tenant_id, response_id, number):
            return self._answer(tenant_id, response_id, number)
        return Response(media_type=_EVENTS)

    def _answer(
        self, tenant_id: int, response_id: str, number: int = 0, headers: Mapping[str, str] | None = None
    ) -> Response:
        events = self._streams.events(tenant_id, response_id, number)
        return StreamingResponse(events, headers=headers, media_type=_EVENTS)

    async def _start(self, request: InferenceRequest, plan: ResponsePlan, exchange: Exchange, serve: Serve) -> None:
        """Answer with what is stored of a response in the background: a new one, or that of the same request before."""
        tenant_id = request.principal.tenant.id
        try:
            if plan.streams:
                self._streams.check_room(tenant_id)
            earlier = await self.store.queue(request.principal, plan)
            if earlier is not None:
                await self._background.accepted(earlier["id"])
            elif (ticket := await self._background.start(request, plan, exchange.scope, serve)) is not None:
                exchange.charged(ticket)
        except ApiError as error:
            await exchange.refuse(error)
            return
        shown = plan.queued if earlier is None else earlier
        headers = {} if earlier is None else {REPLAYED_HEADER: "true"}
        if plan.streams:
            answer = self._answer(tenant_id, shown["id"], headers=headers)
        else:
            answer = JSONResponse(shown, headers=headers)
        await answer(exchange.scope, exchange.receive, exchange.send)
