"""The refusal of another batch or training job of a tenant that has as many under way as it may.

Design decision: `x-should-retry: false` beside Retry-After. They take minutes to hours; OpenAI's clients would sleep
through two retries of a minute each without a word, and then fail all the same.
"""

from __future__ import annotations

from server.core.errors import TooManyRequests
from server.core.retry_headers import retry_headers
from server.limits.rate_limit_headers import NO_RETRY

# When one of them ends is not known.
RETRY_S = 60.0


def too_much_unfinished(things: str, path: str, count: int, most: int, setting: str, code: str) -> TooManyRequests:
    """`things` ("batches") of the tenant, `count` of them, have not ended, and `most` may. They are at `path`."""
    return TooManyRequests(
        f"There are {count} {things} that have not ended, expected less than {most} (the server's setting {setting}). "
        f"Wait for one of them to end, or cancel one (POST {path}/{{id}}/cancel), and then create this one; "
        f"GET {path} lists them.",
        counted="requests",
        reason=setting,
        code=code,
        headers={**retry_headers(RETRY_S), **NO_RETRY},
    )
