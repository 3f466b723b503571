"""Reading a request's body up to a limit, whether or not its length was announced, and giving it to the next reader.

It does not parse anything, and keeps the whole body in memory: the limits are what bounds it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from server.errors import PayloadTooLarge

# What the gateway's own routes read of bodies that are descriptions, not data.
MAX_JSON_BYTES = 2**20


async def read_body(headers: Headers, receive: Receive, limit: int, setting: str | None = None) -> bytes:
    """The whole body. Raises as `body_chunks`."""
    return b"".join([chunk async for chunk in body_chunks(headers, receive, limit, setting)])


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
    pending: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_replayed() -> Message:
        nonlocal pending
        if pending is not None:
            message, pending = pending, None
            return message
        return await receive()

    return receive_replayed


def _too_large(size: str, limit: int, setting: str | None) -> PayloadTooLarge:
    whose = f" (the server's setting {setting})" if setting else ""
    return PayloadTooLarge(f"The body has {size}, expected at most {limit} bytes{whose}.")
