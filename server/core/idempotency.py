"""The header Idempotency-Key: a request that is sent again with the same key is done once, and answered as before."""

from __future__ import annotations

from starlette.datastructures import Headers

from server.core.errors import BadRequest, quoted

IDEMPOTENCY_HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
MAX_KEY_CHARS = 255


def idempotency_key_of(headers: Headers) -> str | None:
    """The key of a request, None without one. BadRequest for one that is empty, too long or no printable ASCII."""
    key = headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not (1 <= len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        raise BadRequest(
            f"The Idempotency-Key is {quoted(key)}, expected 1 to {MAX_KEY_CHARS} printable ASCII characters.",
            param=IDEMPOTENCY_HEADER,
            code="invalid_value",
        )
    return key
