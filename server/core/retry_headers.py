"""When a client that was refused tries again, in response headers.

retry-after: 2                      retry-after-ms: 1250
"""

from __future__ import annotations

from math import ceil


def retry_headers(seconds: float) -> dict[str, str]:
    """Try again after so many seconds: in whole ones for every client, in milliseconds for OpenAI's."""
    return {"retry-after": str(max(1, ceil(seconds))), "retry-after-ms": str(max(1, ceil(seconds * 1000)))}
