"""Waiting for a server that is away for a while: one that restarts, or a network that fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from openai import APIConnectionError, APIError, InternalServerError, RateLimitError

from tinylora_client.operation import Pause, Steps

T = TypeVar("T")
# A server that restarts is away for a minute or two.
PATIENCE_S = 600.0


def patiently(
    ask: Callable[[], Steps[T]],
    *,
    poll_s: float,
    patience_s: float,
    deadline: float,
    silent: Callable[[APIError], object],
) -> Steps[T]:
    """What `ask` gives. Passing errors are told to `silent` and waited out: it is asked again every `poll_s` seconds,
    for `patience_s` seconds and until `deadline` (of time.monotonic) at most; then the error is raised."""
    give_up: float | None = None
    while True:
        try:
            return (yield from ask())
        except (APIConnectionError, InternalServerError, RateLimitError) as error:
            give_up = give_up or min(time.monotonic() + patience_s, deadline)
            left = give_up - time.monotonic()
            if left <= 0:
                raise
            silent(error)
        yield Pause(min(poll_s, left))
