"""Quotas in response headers, by the names and in the formats of OpenAI's API.

    x-ratelimit-limit-requests: 60      x-ratelimit-remaining-requests: 59     x-ratelimit-reset-requests: 1s

Where several quotas limit one thing, the headers show the one with the least left.

It computes no quota (quotas.py).
"""

from __future__ import annotations

from math import ceil, floor


def limit_headers(counted: str, limit: int, left: float, reset_s: float) -> dict[str, str]:
    """For "requests" or "tokens": `left` of `limit`, which is whole again after `reset_s` seconds without use."""
    return {
        f"x-ratelimit-limit-{counted}": str(limit),
        f"x-ratelimit-remaining-{counted}": str(max(0, floor(left + 1e-6))),
        f"x-ratelimit-reset-{counted}": duration(reset_s),
    }


# OpenAI's clients take a 429 for a reason to try again, unless this is said.
NO_RETRY = {"x-should-retry": "false"}


def duration(seconds: float) -> str:
    """As in "20ms", "1.5s", "6m0s" and "1h0m30s"; rounded up to milliseconds, from a minute on to seconds."""
    milliseconds = ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(ceil(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
