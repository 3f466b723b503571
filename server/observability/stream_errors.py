"""Recognises the event with which a stream ends whose status was a success: OpenAI's, Anthropic's and Responses'."""

from __future__ import annotations

import json

_CHAT = b'data: {"error"'
_BEGINNINGS = (_CHAT, b"event: error\n", b"event: response.failed\n")


def is_server_error(event: bytes) -> bool:
    """Whether `event`, a piece of a body as clients get it, says that the server has failed. Not what a client did
    wrong, which the engine may find late."""
    if not event.startswith(_BEGINNINGS):
        return False
    if not event.startswith(_CHAT):
        return True
    try:
        kind = json.loads(event.partition(b"\n")[0].removeprefix(b"data: "))["error"]["type"]
    except (ValueError, LookupError, TypeError):
        return True
    return bool(kind == "server_error")
