"""The errors of the engine's routes in OpenAI's shape (core/error_responses.py), those within streams too.

vLLM's have the HTTP status as `code` and a Python class as `type`. An error whose code is a word is the gateway's own,
or in Anthropic's shape, and passes. A prompt that does not fit gets OpenAI's code for it (core/context_length.py).

Design decision: rewritten at one place on the way out, and not where vLLM makes them: exception handlers, routes, and
the generators of streams.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.context_length import CODE, FIELDS, is_over_context
from server.core.error_responses import error_body

STREAMED_ERROR = b'data: {"error"'


class EngineErrors:
    """Pure ASGI around the engine's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        held: Message | None = None
        body = b""

        # Not a coroutine of its own: it runs once for every token that is streamed.
        def send_in_shape(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                return hold(message) if _is_json_error(message) else send(message)
            if message["type"] != "http.response.body":
                return send(message)
            return send(_streamed_in_shape(message, path)) if held is None else send_whole(held, message)

        async def hold(start: Message) -> None:
            nonlocal held
            held = start

        async def send_whole(start: Message, message: Message) -> None:
            nonlocal body
            body += message.get("body", b"")
            if not message.get("more_body", False):
                body = _in_shape(body, start["status"], path)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, send_in_shape)


def _is_json_error(start: Message) -> bool:
    media_type = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] >= HTTPStatus.BAD_REQUEST and media_type.startswith("application/json")


def _streamed_in_shape(message: Message, path: str) -> Message:
    body: bytes = message.get("body", b"")
    if not body.startswith(STREAMED_ERROR):
        return message
    event, end, rest = body.removeprefix(b"data: ").partition(b"\n\n")
    return {**message, "body": b"data: " + _in_shape(event, None, path) + end + rest}


def _in_shape(body: bytes, status: int | None, path: str) -> bytes:
    """`body` as it is unless it is an error whose code is a number, which is its status if `status` is None."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return body
    error = answer.get("error") if isinstance(answer, Mapping) else None
    if not isinstance(error, Mapping) or isinstance(error.get("code"), str) or "code" not in error:
        return body
    code = error["code"]
    status = status or (code if isinstance(code, int) else HTTPStatus.INTERNAL_SERVER_ERROR)
    param = error.get("param") if isinstance(error.get("param"), str) else None
    message = str(error.get("message") or "The engine refused the request and does not say why.")
    if is_over_context(message):
        shaped = error_body(status, message, param=FIELDS.get(path, param), code=CODE)
    else:
        shaped = error_body(status, message, param=param)
    return json.dumps(shaped, ensure_ascii=False).encode()
