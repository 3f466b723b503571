"""The two channels of one inference request: what the gateway adds to its answer, and notes about its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import ApiError
from server.core.request_state import state_of
from server.limits.quotas import Ticket
from server.observability.http_metrics import LEFT


class Exchange:
    """Adds `headers` to the answer and, once there is a `ticket`, the state of its quotas.

    `status` is the answer's, and LEFT where there is none; `left` says whether the client left before the answer's last
    byte.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]) -> None:
        self.scope = scope
        self.status = LEFT
        self.left = False
        self.ticket: Ticket | None = None
        self._receive = receive
        self._send = send
        self._headers = headers
        self._answered = False

    def charged(self, ticket: Ticket) -> None:
        """Its estimate is taken from the quotas."""
        self.ticket = ticket

    def queued(self) -> None:
        """The request is taken, and waits for its turn."""

    async def begins(self) -> None:
        """Its turn has come."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._answered:
            self.left = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Not a coroutine of its own: it runs once for every token that is streamed."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            quotas = {} if self.ticket is None else self.ticket.headers()
            MutableHeaders(scope=message).update({**quotas, **self._headers})
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        return self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with `error`."""
        await response_to(error)(self.scope, self.receive, self.send)

    def failed(self, error: Exception) -> None:
        """`error` leaves the engine or the gateway: where no answer has begun it will be a 500, else one breaks off."""
        if isinstance(error, ClientDisconnect):
            return
        if self.status == LEFT:
            self.status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        elif self.status < HTTPStatus.BAD_REQUEST:
            state_of(self.scope).broke_off = True

    async def left_during(self, work: Coroutine[Any, Any, None]) -> bool:
        """Does `work`, which ends where it is when the client leaves: then True. Raises what it raises."""
        task = asyncio.ensure_future(work)
        try:
            left = await self.left_before(task)
            if task.done():
                task.result()  # also when the client leaves in the same moment, or it would be a lost error
            return left
        finally:
            task.cancel()

    async def left_before(self, granted: asyncio.Future[None]) -> bool:
        """Waits for `granted` or for the client to leave. The body has been read, so nothing else can come of it."""
        leaving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((granted, leaving), return_when=asyncio.FIRST_COMPLETED)
            return leaving.done()
        finally:
            leaving.cancel()
