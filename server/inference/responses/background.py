"""Responses that run in the background: their requests go on after they have been answered.

A stream of one is read from what is stored of its events (event_log.py), by whoever asked for it too.

Such a request takes the way of all others, quotas and queue included, with an exchange of its own: what would be its
client reads the answer into the store, and leaves when the response is cancelled. So cancelling is what a client that
leaves is anyway.

Another gateway cancels a response by ending its row, which is seen when its lease is renewed (leases.py).

How one has ended is stored when its request has ended, and its turn at the engine with it. While the database is away,
it is kept here and tried again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from server.core.context_length import CODE, is_over_context
from server.core.errors import ApiError, Unavailable
from server.core.principal import Principal
from server.core.request_state import RequestState, held_body, put_state, state_of
from server.inference.exchange import Exchange
from server.inference.request import InferenceRequest
from server.inference.responses.answer import BROKE_OFF, ResponseAnswer
from server.inference.responses.event_log import EventLogs
from server.inference.responses.leases import RENEW_S, Leases
from server.inference.responses.plan import ResponsePlan
from server.inference.responses.store import FIRST_EVENTS, LOST, NO_KEY, ResponseStore
from server.limits.quotas import Ticket

END_S = 10.0
RETRY_S = 1.0
MAX_ERROR_CHARS = 1000
_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "invalid_prompt",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
}

# Takes a request its whole way, by an exchange.
Serve = Callable[[InferenceRequest, Exchange], Awaitable[None]]


class _Client(Exchange):
    """The client that a background request has. `accepted` is None once it waits for its turn, or why it does not.

    `answer` is OpenAI's object once the engine has answered; `error` is why it has not.
    """

    def __init__(
        self, scope: Scope, plan: ResponsePlan, store: ResponseStore, logs: EventLogs, principal: Principal
    ) -> None:
        self.accepted: asyncio.Future[ApiError | None] = asyncio.get_running_loop().create_future()
        self.answer: dict[str, Any] | None = None
        self.error: dict[str, Any] = BROKE_OFF
        self._gone = asyncio.Event()
        self._refusal = b""
        self._id, self._store, self._logs, self._principal = plan.id, store, logs, principal
        self._sender = ResponseAnswer(plan, self._keep, self._read)
        super().__init__(scope, self._wait_until_gone, self._sender.send, {})

    @property
    def was_refused(self) -> bool:
        """Whether its request was answered with an error instead of being taken."""
        return self.accepted.done() and self.accepted.result() is not None

    @property
    def has_left(self) -> bool:
        """Whether nobody waits for its answer any more."""
        return self._gone.is_set()

    async def leaves_within(self, seconds: float) -> None:
        """Returns when it has left, or after so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), seconds)

    def leave(self, error: dict[str, Any]) -> None:
        """As a client that closes its connection."""
        self.error = error
        self._gone.set()

    def queued(self) -> None:
        self.accepted.set_result(None)

    async def begins(self) -> None:
        try:
            may_run = await self._store.begin(self._id, self._principal)
        except Unavailable as error:  # it looks queued until it has ended, which is no reason not to run it
            structlog.get_logger().warning("begin of a response not stored", response=self._id, error=str(error))
            return
        if not may_run:
            self.error = NO_KEY
            raise ClientDisconnect

    async def refuse(self, error: ApiError) -> None:
        if self.accepted.done():
            await super().refuse(error)
        else:
            self.status = error.status
            self.accepted.set_result(error)

    async def _wait_until_gone(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _keep(self, response: dict[str, Any]) -> bool:
        self.answer = response
        return True

    async def _read(self, message: Message) -> None:
        if message["type"] != "http.response.body" or self.answer is not None:
            return  # the last event of a stream is made of what is stored
        if self._sender.streams:
            self._logs.add(self._id, message.get("body", b""))
        elif self.status != HTTPStatus.OK:
            self._refusal += message.get("body", b"")
            if not message.get("more_body", False):
                why = self._why()
                code = CODE if is_over_context(why) else _CODES.get(self.status, "server_error")
                self.error = {"code": code, "message": why}

    def _why(self) -> str:
        """What an answer with an error says, in OpenAI's shape or in the engine's."""
        try:
            answer: Any = json.loads(self._refusal)
            return str(answer["error"]["message"])[:MAX_ERROR_CHARS]
        except (ValueError, LookupError, TypeError):
            return f"The engine refused the request with status {self.status} and does not say why."


class BackgroundResponses:
    """Those of one gateway. For one event loop."""

    def __init__(self, store: ResponseStore) -> None:
        self.logs = EventLogs(store, self.leave)
        self.leases = Leases(store, self.leave)
        self._store = store
        self._clients: dict[str, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger()

    async def start(self, request: InferenceRequest, plan: ResponsePlan, scope: Scope, serve: Serve) -> Ticket | None:
        """Have the request of `plan`, which is stored as queued, served; what it was charged, once it is.

        Raises the ApiError that says why it is not accepted.
        """
        tenant_id = request.principal.tenant.id
        client = _Client(_scope_of_its_own(scope), plan, self._store, self.logs, request.principal)
        self._clients[plan.id] = client
        self.leases.take(plan.id)
        if plan.streams:
            self.logs.open(tenant_id, plan.id, len(FIRST_EVENTS))
        # What was made of its body is needed until it has ended, which is long after this answer.
        held = state_of(client.scope).held_body = held_body(scope).hand_over()
        task = asyncio.create_task(self._run(request, plan, client, serve), name=plan.id)
        task.add_done_callback(lambda _: held.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        error = await asyncio.shield(client.accepted)
        if error is not None:
            await asyncio.wait({task})  # until nothing of it is left
            raise error
        return client.ticket

    async def accepted(self, response_id: str) -> None:
        """Wait until a response is accepted, if it is one of this gateway. Raises the ApiError that says why not."""
        client = self._clients.get(response_id)
        error = None if client is None else await asyncio.shield(client.accepted)
        if error is not None:
            raise error

    @property
    def running(self) -> int:
        """How many run or wait, until their ends are stored."""
        return len(self._tasks)

    def leave(self, response_id: str) -> None:
        """End a response's request, if it is one of this gateway: its row has ended, or is gone."""
        client = self._clients.get(response_id)
        if client is not None:
            client.leave(BROKE_OFF)

    @asynccontextmanager
    async def tending(self, renew_s: float = RENEW_S) -> AsyncIterator[None]:
        """Renews leases and ends what others left behind while the block runs; then ends what still runs."""
        async with self.leases.renewing(renew_s):
            try:
                yield
            finally:
                for client in self._clients.values():
                    client.leave(LOST)
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=END_S)

    async def _run(self, request: InferenceRequest, plan: ResponsePlan, client: _Client, serve: Serve) -> None:
        try:
            await serve(request, client)
        except ClientDisconnect:
            pass
        except Exception:
            self._log.exception("background response failed", response=plan.id)
        finally:
            if not client.accepted.done():
                client.accepted.set_result(None)
            try:
                await self._store_end(request.principal.tenant.id, plan.id, client)
            finally:
                self.logs.close(plan.id)
                self.leases.give_up(plan.id)
                del self._clients[plan.id]

    async def _store_end(self, tenant_id: int, response_id: str, client: _Client) -> None:
        """Store how a response has ended, however long the database is away, unless nobody asks for it any more."""
        while True:
            is_last_try = client.was_refused or client.has_left
            try:
                if client.was_refused:
                    await self._store.forget(tenant_id, response_id)
                else:
                    failed = {"status": "failed", "error": client.error}
                    await self.logs.end(tenant_id, response_id, client.answer or failed)
                return
            except Unavailable as error:
                self._log.error("end of a background response not stored", response=response_id, error=str(error))
                if is_last_try:
                    return
                await client.leaves_within(RETRY_S)
            except Exception:  # which will not change; its lease ends, and the response with it, as failed
                self._log.exception("background response cannot be stored", response=response_id)
                return


def _scope_of_its_own(scope: Scope) -> Scope:
    """The scope of a request that outlives the one it came with, whose state and body memory end with its answer."""
    state = state_of(scope)
    own: Scope = {**scope, "state": {**scope["state"]}}
    put_state(
        own, RequestState(state.id, state.method, state.path, principal=state.principal, background=state.background)
    )
    return own
