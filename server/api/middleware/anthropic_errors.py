"""Errors of /v1/messages in Anthropic's shape, wherever they come from: keys, quotas, adapters or the engine.

    {"type": "error", "error": {"type": "not_found_error", "message": ...}, "request_id": ...}

Design decision: translated at one place on the way out, and not where a request is refused, so that nothing else needs
to know which API the client uses. `type` follows from the status alone, as Anthropic documents it. A prompt that does
not fit is told with Anthropic's words before the engine's: programs look for them, and then shorten their conversation.

So are errors in the middle of a stream, whose `code` is their status.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.context_length import is_over_context
from server.core.paths import is_below
from server.core.request_state import state_of
from server.core.retry_headers import ENDING_RETRY_S, retry_headers

MESSAGES = ("/v1/messages",)
TOO_LONG = "prompt is too long"
STREAMED_ERROR = b"event: error\ndata: "
REQUEST_ID = "request-id"  # the header in which Anthropic's clients look for it
TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}
ERROR_SCHEMA: dict[str, Any] = {
    "title": "AnthropicError",
    "description": "Why a request was refused, as Anthropic's API says it.",
    "type": "object",
    "required": ["type", "error", "request_id"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}


class AnthropicErrors:
    """Pure ASGI middleware, outside of all that refuse requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_below(scope["path"], MESSAGES):
            await self._app(scope, receive, send)
            return
        request_id = state_of(scope).id
        start: Message | None = None
        body = b""

        async def send_translated(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = request_id
                # The engine's route makes answers of errors, and drops their headers.
                if message["status"] == HTTPStatus.SERVICE_UNAVAILABLE and "retry-after" not in headers:
                    headers.update(retry_headers(ENDING_RETRY_S))
                is_json = headers.get("content-type", "").startswith("application/json")
                if message["status"] >= HTTPStatus.BAD_REQUEST and is_json:
                    start, body = message, b""
                    return
            elif start is not None:
                body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                translated = _translated(body, start["status"], request_id)
                MutableHeaders(scope=start)["content-length"] = str(len(translated))
                await send(start)
                message = {**message, "body": translated}
            elif message.get("body", b"").startswith(STREAMED_ERROR):
                message = {**message, "body": _event_translated(message["body"], request_id)}
            await send(message)

        await self._app(scope, receive, send_translated)


def type_of(status: int) -> str:
    """The type of error that goes with an HTTP status."""
    of_others = "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "api_error"
    return TYPES.get(HTTPStatus(status), of_others)


def _event_translated(event: bytes, request_id: str) -> bytes:
    data, end, rest = event.removeprefix(STREAMED_ERROR).partition(b"\n\n")
    try:
        status = json.loads(data)["error"]["code"]
    except (ValueError, TypeError, KeyError):
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
    return STREAMED_ERROR + _translated(data, status, request_id) + end + rest


def _translated(body: bytes, status: int, request_id: str) -> bytes:
    """`body`, an error of the gateway or of the engine's /v1/messages, in Anthropic's shape; another body as it is."""
    try:
        error = json.loads(body)["error"]
        message = error["message"]
    except (ValueError, TypeError, KeyError):
        return body
    if is_over_context(message):
        message = f"{TOO_LONG}: {message}"
    shown: MutableMapping[str, Any] = {"type": type_of(status), "message": message}
    return json.dumps({"type": "error", "error": shown, "request_id": request_id}).encode()
