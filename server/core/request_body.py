"""Reading a request's body up to a limit, whether or not its length was announced, and giving it to the next reader.

It does not parse anything, and keeps the whole body in memory: the limits are what bounds it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from email.message import Message

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message as AsgiMessage
from starlette.types import Receive

from server.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, quoted

# What the gateway's own routes read of bodies that are descriptions, not data.
MAX_JSON_BYTES = 2**20
# Of which real ones have a hundred or two. Parsers of its parameters, ours and the framework's, take quadratic time.
MAX_CONTENT_TYPE_CHARS = 1000


async def read_body(headers: Headers, receive: Receive, limit: int, setting: str | None = None) -> bytes:
    """The whole body. Raises as `body_chunks`."""
    body = bytearray()
    # Not a list of the pieces, which may be as many as there are bytes.
    async for chunk in body_chunks(headers, receive, limit, setting):
        body += chunk
    return bytes(body)


async def read_json(headers: Headers, receive: Receive, limit: int, setting: str | None = None) -> bytes:
    """As `read_body`, of a body that is to be JSON, yet to be parsed. UnsupportedMediaType when it is said to be other.

    What a web form could send (text/plain, for one) is no JSON, whatever is in it.
    """
    if not is_json(headers) and not _is_empty(headers):
        kind = media_type(headers)
        said = f"The content type is {quoted(kind)}" if kind else "The body has no content type"
        raise UnsupportedMediaType(f"{said}, expected application/json.", param="content-type")
    return await read_body(headers, receive, limit, setting)


def media_type(headers: Headers) -> str:
    """The content type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def check_content_type(headers: Headers) -> None:
    """BadRequest for one that is too long to be parsed."""
    length = len(headers.get("content-type", ""))
    if length > MAX_CONTENT_TYPE_CHARS:
        raise BadRequest(
            f"The header Content-Type has {length} characters, expected at most {MAX_CONTENT_TYPE_CHARS}.",
            param="content-type",
            code="invalid_value",
        )


def charset_of(headers: Headers) -> str | None:
    """The charset of the content type, in lower case; None when it says none. BadRequest when it cannot be read."""
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    try:
        return message.get_content_charset()
    # Of the library, for parts that are no continuation, and for bytes that are no text.
    except (TypeError, ValueError):
        raise BadRequest(
            f"The charset of the header Content-Type, {quoted(message['content-type'])}, cannot be read; send JSON in "
            "UTF-8, as application/json.",
            param="content-type",
            code="invalid_value",
        ) from None


def is_json(headers: Headers) -> bool:
    """Whether the body is said to be JSON."""
    kind = media_type(headers)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _is_empty(headers: Headers) -> bool:
    return headers.get("content-length", "0") in ("", "0") and "transfer-encoding" not in headers


async def body_chunks(
    headers: Headers, receive: Receive, limit: int, setting: str | None = None
) -> AsyncGenerator[bytes, None]:
    """The body in pieces. PayloadTooLarge beyond `limit` bytes (of `setting`); ClientDisconnect when it breaks off."""
    announced = headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and len(announced) < 20 and int(announced) > limit:
        raise _too_large(f"{announced} bytes", limit, setting)
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limit:
            raise _too_large("more", limit, setting)
        yield chunk
        if not message.get("more_body", False):
            return


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first and then goes on with `receive`, where a disconnect is announced."""
    pending: AsgiMessage | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_replayed() -> AsgiMessage:
        nonlocal pending
        if pending is not None:
            message, pending = pending, None
            return message
        return await receive()

    return receive_replayed


def _too_large(size: str, limit: int, setting: str | None) -> PayloadTooLarge:
    whose = f" (the server's setting {setting})" if setting else ""
    return PayloadTooLarge(f"The body has {size}, expected at most {limit} bytes{whose}.")
