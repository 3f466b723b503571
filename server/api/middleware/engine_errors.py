"""The errors of the engine's routes in OpenAI's shape (core/error_responses.py), those within streams too.

vLLM's have the HTTP status as `code` and a Python class as `type`. An error whose code is a word is the gateway's own,
or in Anthropic's shape, and passes.

Design decision: rewritten at one place on the way out, and not where vLLM makes them: exception handlers, routes, and
the generators of streams.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        held: Message | None = None
        body = b""

        async def send_in_shape(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start" and _is_json_error(message):
                held = message
            elif message["type"] != "http.response.body":
                await send(message)
            elif held is not None:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    body = _in_shape(body, held["status"])
                    MutableHeaders(scope=held)["content-length"] = str(len(body))
                    await send(held)
                    await send({"type": "http.response.body", "body": body})
            else:
                await send(_streamed_in_shape(message))

        await self._app(scope, receive, send_in_shape)


def _is_json_error(start: Message) -> bool:
    media_type = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] >= HTTPStatus.BAD_REQUEST and media_type.startswith("application/json")


def _streamed_in_shape(message: Message) -> Message:
    body: bytes = message.get("body", b"")
    if not body.startswith(STREAMED_ERROR):
        return message
    event, end, rest = body.removeprefix(b"data: ").partition(b"\n\n")
    return {**message, "body": b"data: " + _in_shape(event, None) + end + rest}


def _in_shape(body: bytes, status: int | None) -> bytes:
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
    param = error.get("param")
    message = str(error.get("message") or "The engine refused the request and does not say why.")
    shaped = error_body(status, message, param=param if isinstance(param, str) else None)
    return json.dumps(shaped, ensure_ascii=False).encode()
