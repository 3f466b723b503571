"""What time it is, for everything that is stored with a time or expires: leases, files, keys, answers to writes.

Design decision: a context variable, not a parameter, which some thirty functions of a connection would only hand on. A
test sets it around what it calls (`following`), and it holds for the tasks and worker threads that are started there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Clock = Callable[[], float]

_CLOCK: ContextVar[Clock] = ContextVar("clock", default=time.time)


def now() -> int:
    """Whole seconds since 1970."""
    return int(_CLOCK.get()())


@contextmanager
def following(clock: Clock) -> Iterator[None]:
    """Within the block `now` is what `clock` says, in seconds since 1970."""
    token = _CLOCK.set(clock)
    try:
        yield
    finally:
        _CLOCK.reset(token)
