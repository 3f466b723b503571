"""What time it is, for everything that is stored with a time or expires: leases, files, keys, answers to writes.

A gateway on PostgreSQL goes by that one's clock (db/database_clock.py), so that all gateways have the same.

Design decision: a context variable, not a parameter, which some thirty functions of a connection would only hand on. A
test sets it around what it calls (`following`), and it holds for the tasks and worker threads that are started there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Clock = Callable[[], float]

_CLOCK: ContextVar[Clock | None] = ContextVar("clock", default=None)
# Of the process: the last one. Not a context's, so that it holds whoever began a thread or took a connection.
_OF_PROCESS: list[Clock] = [time.time]


def now() -> int:
    """Whole seconds since 1970."""
    return int((_CLOCK.get() or _OF_PROCESS[-1])())


@contextmanager
def following(clock: Clock) -> Iterator[None]:
    """Within the block `now` is what `clock` says, in seconds since 1970."""
    token = _CLOCK.set(clock)
    try:
        yield
    finally:
        _CLOCK.reset(token)


@contextmanager
def process_following(clock: Clock) -> Iterator[None]:
    """Within the block `now` is what `clock` says in the whole process, but where `following` says otherwise."""
    _OF_PROCESS.append(clock)
    try:
        yield
    finally:
        _OF_PROCESS.remove(clock)
