"""How a request to /v1/responses is answered: by the engine, or at once with a response that is queued."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from server.core.errors import ApiError
from server.inference.exchange import Exchange
from server.inference.request import InferenceRequest
from server.inference.responses.answer import ResponseAnswer
from server.inference.responses.background import RENEW_S, BackgroundResponses, Serve
from server.inference.responses.plan import ResponsePlan
from server.inference.responses.store import ResponseStore


class Responses:
    """Those of one gateway; `store` has them all."""

    def __init__(self, store: ResponseStore) -> None:
        self.store = store
        self._background = BackgroundResponses(store)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    def tending(self, renew_s: float = RENEW_S) -> AbstractAsyncContextManager[None]:
        """Looks after the responses in the background while the block runs."""
        return self._background.tending(renew_s)

    async def serve(self, request: InferenceRequest, plan: ResponsePlan, exchange: Exchange, serve: Serve) -> None:
        """Answer `request` through `exchange`; `serve` takes a request its whole way."""
        if plan.background:
            await self._start(request, plan, exchange, serve)
            return

        async def keep(response: dict[str, Any]) -> bool:
            return await self.store.keep(request.principal, plan, response)

        answer = ResponseAnswer(plan, keep, exchange.send)
        try:
            await serve(request, Exchange(exchange.scope, exchange.receive, answer.send, {}))
        except ClientDisconnect:
            raise
        except Exception:
            if not answer.streams:
                raise
            self._log.exception("stream of a response broke off", response=plan.id)
            await answer.fail()

    def left(self, response_id: str) -> None:
        """A response has been cancelled or deleted: its request ends, if it is one of this gateway."""
        self._background.leave(response_id)

    async def _start(self, request: InferenceRequest, plan: ResponsePlan, exchange: Exchange, serve: Serve) -> None:
        try:
            ticket = await self._background.start(request, plan, exchange.scope, serve)
        except ApiError as error:
            await exchange.refuse(error)
            return
        if ticket is not None:
            exchange.charged(ticket)
        await JSONResponse(plan.queued)(exchange.scope, exchange.receive, exchange.send)
