"""Recognises the event with which a stream ends whose status was a success: OpenAI's, Anthropic's and Responses'."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CHAT, _ERROR, _FAILED = b'data: {"error"', b"event: error\n", b"event: response.failed\n"
_BEGINNINGS = (_CHAT, _ERROR, _FAILED)
SERVER_ERROR = "server_error"
# Of errors that are not the server's: those of Anthropic's API, and the end of a response that its tenant has deleted.
_OTHERS = ("invalid_request_error", "not_found_error", "request_too_large", "rate_limit_error", "response_not_found")


def is_server_error(event: bytes) -> bool:
    """Whether `event`, a piece of a body as clients get it, says that the server has failed. Not what a client did
    wrong, which the engine may find late, nor that a tenant has cancelled or deleted its response."""
    if not event.startswith(_BEGINNINGS):
        return False
    try:
        told: Any = json.loads(event.partition(b"data: ")[2].partition(b"\n")[0])
        if event.startswith(_FAILED):
            response = told["response"]
            code = (response.get("error") or {}).get("code", SERVER_ERROR)
            return bool(response["status"] != "cancelled" and code == SERVER_ERROR)
        error = told["error"] if isinstance(told.get("error"), Mapping) else told
        if event.startswith(_ERROR):
            return error.get("code") not in _OTHERS and error["type"] not in _OTHERS
        return bool(error["type"] == SERVER_ERROR)
    except (ValueError, LookupError, TypeError, AttributeError):
        return True
