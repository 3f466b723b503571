"""Where the engine's Responses API differs from OpenAI's: the last event of a stream, and stored responses.

A stream that its token limit cut off has to end with `response.incomplete`; the engine ends every stream with
`response.completed`, whatever the response's status is. That one event is parsed, and renamed.

Responses are not stored, because the engine's store does not tell tenants apart. Requests that need a stored one are
refused: answered without the earlier conversation, they would seem to have worked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core.errors import BadRequest

RESPONSES_PATH = "/v1/responses"
_COMPLETED = b"event: response.completed\ndata: "
_NEEDS_STORE = ("previous_response_id", "conversation")


def check_stored(payload: Mapping[str, object], path: str) -> None:
    """BadRequest where a request to `path` goes on from something stored, or would have to be stored itself."""
    if path != RESPONSES_PATH:
        return
    for field in _NEEDS_STORE:
        if payload.get(field) is not None:
            raise BadRequest(
                f"{field}: responses are not stored here, so there is none to go on from. Send the earlier messages "
                "and outputs in `input`, before the new one.",
                param=field,
                code="previous_response_not_found",
            )
    if payload.get("background"):
        raise BadRequest(
            "background: responses are not stored here, so nobody could fetch this one. Leave it out, or use `stream`.",
            param="background",
            code="not_supported",
        )


class ResponsesEvents:
    """Pure ASGI around the engine's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != RESPONSES_PATH:
            await self._app(scope, receive, send)
            return

        async def send_renamed(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("body", b"").startswith(_COMPLETED):
                message = {**message, "body": _last_event(message["body"])}
            await send(message)

        await self._app(scope, receive, send_renamed)


def _last_event(event: bytes) -> bytes:
    data, end, rest = event.removeprefix(_COMPLETED).partition(b"\n\n")
    parsed: Any = json.loads(data)
    if parsed["response"]["status"] != "incomplete":
        return event
    parsed["type"] = "response.incomplete"
    return b"event: response.incomplete\ndata: " + json.dumps(parsed, ensure_ascii=False).encode() + end + rest
