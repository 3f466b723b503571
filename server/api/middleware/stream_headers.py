"""Says of every stream of events that nobody on its way shall hold it back: nginx buffers answers unless they say so.

Design decision: by the type of the answer, so that no route has to think of it.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENT_STREAM = "text/event-stream"


class StreamHeaders:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_say(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith(EVENT_STREAM):
                    headers["cache-control"] = "no-cache"
                    headers["x-accel-buffering"] = "no"
            await send(message)

        await self._app(scope, receive, send_and_say)
