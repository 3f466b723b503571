"""Work on a client's body, in a thread if it is so long that it would delay everyone else's requests.

Design decision: only above a number of bytes, and not always: handing work to a thread and back takes longer than
parsing the usual request. Python's JSON parser holds the interpreter's lock in any thread; the limit on values
(json_values.py) bounds that.
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
