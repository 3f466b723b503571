"""Headers that keep proxies and CDNs from caching answers, and from buffering streams, as nginx does by default.

A cache in front of the server knows answers by their address, and those of two tenants have the same one. Of requests
with `Authorization` it keeps nothing by itself (RFC 9111, section 3.5), but of those with a key in `x-api-key` or
`api-key` it may. So every answer says that it is one client's own, which may keep it and has to ask about it again.

They are set here, so that no route has to set them. An answer that says otherwise itself is left as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EVENT_STREAM = "text/event-stream"
OWN = "private, no-cache"


class ProxyHeaders:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not a coroutine of its own: it runs once for every token that is streamed.
        def send_and_say(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith(EVENT_STREAM):
                    headers["cache-control"] = OWN
                    headers["x-accel-buffering"] = "no"
                else:
                    headers.setdefault("cache-control", OWN)
            return send(message)

        await self._app(scope, receive, send_and_say)
