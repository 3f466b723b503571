"""Work on what a client sent, by a thread where it is long enough to be felt by everyone else.

Design decision: by its length in bytes, which is known before; to hand over to a thread and back takes longer than to
read the usual request. Python's JSON parser keeps the interpreter to itself while it runs, in whatever thread: how many
values a body may have (json_values.py) is what bounds that. Everything else that is done with a body gives way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool

MAX_ON_LOOP_BYTES = 100_000

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns or raises; in a thread when it is about more than MAX_ON_LOOP_BYTES bytes."""
    if size <= MAX_ON_LOOP_BYTES:
        return work(*args, **kwargs)
    return await run_in_threadpool(work, *args, **kwargs)
