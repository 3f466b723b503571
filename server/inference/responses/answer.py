"""The answer of the engine to a request to /v1/responses, made whole on its way out.

The engine's object gets what the engine does not know of: previous_response_id, store, background, error, completed_at.
When it has ended it is kept, and only then do its last bytes leave: whoever has them can go on from it. Of a stream the
response is there when its first event leaves: that has its id.

A stream that its token limit cut off has to end with `response.incomplete`; the engine ends every stream with
`response.completed`, whatever the response's status is. The item that was cut off says so; of the engine's, all are
completed. A stream that breaks ends with `response.failed`. Only events with the whole object in them are parsed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

from server.core.clock import now
from server.inference.responses.plan import ResponsePlan

# Keeps a response, OpenAI's object; whether it is kept.
Keep = Callable[[dict[str, Any]], Awaitable[bool]]

BROKE_OFF = {"code": "server_error", "message": "The server stopped before the answer was complete. Ask again."}
_LAST_EVENTS = ("completed", "incomplete", "failed")
_WITH_RESPONSE = tuple(f"event: response.{kind}\ndata: ".encode() for kind in ("created", "in_progress", "completed"))


class ResponseAnswer:
    """`send` is the ASGI function through which the engine answers; `send_on` is the client's.

    `keep` keeps a response that has ended, `begin` one whose stream begins; None when it is in the store already.
    """

    def __init__(self, plan: ResponsePlan, keep: Keep, send_on: Send, begin: Keep | None = None) -> None:
        self.streams = False
        self._plan = plan
        self._stored = plan.store
        self._keep = keep
        self._begin = begin
        self._send_on = send_on
        self._start: Message | None = None
        self._body = b""
        self._events = 0
        self._last: dict[str, Any] = {}
        self._ended = False

    async def send(self, message: Message) -> None:
        """Pass a message of the engine on, changed where that is needed."""
        if message["type"] == "http.response.start":
            media_type = Headers(raw=message["headers"]).get("content-type", "")
            self.streams = message["status"] == HTTPStatus.OK and media_type.startswith("text/event-stream")
            if self.streams:
                await self._send_on(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body":
            await self._send_on(message)
        elif self.streams:
            await self._send_event(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()

    async def fail(self) -> None:
        """End a stream that will not be gone on with."""
        if not self._ended:
            await self._send_on({"type": "http.response.body", "body": await self._failed()})

    async def _send_whole(self) -> None:
        assert self._start is not None
        body = self._body
        parsed: Any = json.loads(body) if self._start["status"] == HTTPStatus.OK else None
        if isinstance(parsed, dict):  # it is null where the client has left
            body = json.dumps(await self._kept(parsed), ensure_ascii=False).encode()
            MutableHeaders(scope=self._start)["content-length"] = str(len(body))
        await self._send_on(self._start)
        await self._send_on({"type": "http.response.body", "body": body})

    async def _send_event(self, message: Message) -> None:
        event = message.get("body", b"")
        is_last = not message.get("more_body", False)
        if event.startswith(_WITH_RESPONSE):
            event = await self._changed(event)
        if event:
            self._events += 1
        if is_last and not self._ended:
            event += await self._failed()
        await self._send_on({**message, "body": event})

    async def _changed(self, event: bytes) -> bytes:
        parsed: Any = json.loads(event.partition(b"\ndata: ")[2])
        if parsed["type"] == "response.completed":
            parsed["response"] = await self._kept(parsed["response"])
            if parsed["response"]["status"] in _LAST_EVENTS:
                parsed["type"] = f"response.{parsed['response']['status']}"
            self._ended = True
        else:
            if parsed["type"] == "response.created" and self._stored and self._begin is not None:
                self._stored = await self._begin(self._completed(parsed["response"]))
            parsed["response"] = self._last = self._completed(parsed["response"])
        return _event(parsed)

    async def _failed(self) -> bytes:
        self._ended = True
        if not self._last:
            return b""
        response = await self._kept({**self._last, "status": "failed", "error": BROKE_OFF})
        return _event({"type": "response.failed", "sequence_number": self._events, "response": response})

    async def _kept(self, response: dict[str, Any]) -> dict[str, Any]:
        """`response`, which has ended, and is kept where it is to be."""
        response = self._completed(response)
        if response["status"] == "completed":
            response["completed_at"] = now()
        elif response["status"] == "incomplete":
            response["output"] = _cut_off(response.get("output") or [])
        if self._stored:
            response["store"] = await self._keep(response)
        return response

    def _completed(self, response: dict[str, Any]) -> dict[str, Any]:
        return {"error": None, "completed_at": None, **response, **self._plan.fields, "store": self._stored}


def _cut_off(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`output` of a response whose last item the token limit cut off. Not all kinds of items have a status."""
    if not output or output[-1].get("status") != "completed":
        return output
    return [*output[:-1], {**output[-1], "status": "incomplete"}]


def _event(parsed: dict[str, Any]) -> bytes:
    return f"event: {parsed['type']}\ndata: {json.dumps(parsed, ensure_ascii=False)}\n\n".encode()
