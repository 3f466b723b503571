"""When a client that was refused tries again, in response headers: ours, and what others ask of us.

retry-after: 2                      retry-after-ms: 1250
"""

from __future__ import annotations

from math import ceil, isfinite

# Of a server that ends, until a client's connections go to another one. OpenAI's clients try twice more.
ENDING_RETRY_S = 5


def retry_headers(seconds: float) -> dict[str, str]:
    """Try again after so many seconds: in whole ones for every client, in milliseconds for OpenAI's."""
    return {"retry-after": str(max(1, ceil(seconds))), "retry-after-ms": str(max(1, ceil(seconds * 1000)))}


def retry_after_s(value: str, most_s: float) -> float | None:
    """The seconds that another server's Retry-After asks for, at most `most_s`; None where it has no number of them."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    # A timer that is due at NaN has no place among the others of its event loop, and spoils their order.
    return min(max(seconds, 0.0), most_s) if isfinite(seconds) else None
