"""Refuses compressed bodies: no route decodes them, and the bytes of a gzipped vector would be taken for a vector. Also
JSON in another encoding of text than UTF-8, as which it would be read, and a content type too long to be parsed.

Design decision: refused and not decoded. A few bytes can unpack to gigabytes, so every limit would have to be checked
again, and what is long here (vectors, numbers in base64) hardly compresses.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.error_responses import response_to
from server.core.errors import ApiError, UnsupportedMediaType, quoted
from server.core.request_body import charset_of, check_content_type, is_json

_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")


class PlainBodies:
    """Pure ASGI middleware, inside of AuthMiddleware. Answers 415 to a Content-Encoding other than identity, and to
    JSON with a charset other than UTF-8 or a part of it; 400 as `check_content_type`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                _check(Headers(scope=scope))
            except ApiError as error:
                await response_to(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check(headers: Headers) -> None:
    encodings = ",".join(headers.getlist("content-encoding"))
    if any(encoding.strip().lower() not in ("", "identity") for encoding in encodings.split(",")):
        raise UnsupportedMediaType(
            f"The body is encoded as {quoted(encodings)}; send it as it is, without Content-Encoding.",
            param="content-encoding",
            code="unsupported_content_encoding",
            headers={"accept-encoding": "identity"},
        )
    check_content_type(headers)
    charset = charset_of(headers) if is_json(headers) else None
    if charset not in (None, *_CHARSETS):
        raise UnsupportedMediaType(
            f"The charset of the body is {quoted(charset)}; send JSON in UTF-8.",
            param="content-type",
            code="unsupported_charset",
        )
