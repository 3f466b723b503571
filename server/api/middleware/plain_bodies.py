"""Refuses compressed bodies: no route decodes them, and the bytes of a gzipped vector would be taken for a vector.

Design decision: refused and not decoded. A few bytes can unpack to gigabytes, so every limit would have to be checked
again, and what is long here (vectors, numbers in base64) hardly compresses.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import UnsupportedMediaType, quoted


class PlainBodies:
    """Pure ASGI middleware, inside of AuthMiddleware. Answers 415 to a Content-Encoding other than identity."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            encodings = ",".join(Headers(scope=scope).getlist("content-encoding"))
            if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings.split(",")):
                error = UnsupportedMediaType(
                    f"The body is encoded as {quoted(encodings)}; send it as it is, without Content-Encoding.",
                    param="content-encoding",
                    code="unsupported_content_encoding",
                    headers={"accept-encoding": "identity"},
                )
                await response_to(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
