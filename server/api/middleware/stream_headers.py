"""Headers of event streams that keep proxies from caching or buffering them, as nginx does by default.

They are set by the answer's content type, so that no route has to set them.
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENT_STREAM = "text/event-stream"


class StreamHeaders:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not a coroutine of its own: it runs once for every token that is streamed.
        def send_and_say(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith(EVENT_STREAM):
                    headers["cache-control"] = "no-cache"
                    headers["x-accel-buffering"] = "no"
            return send(message)

        await self._app(scope, receive, send_and_say)
