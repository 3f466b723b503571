"""A grader's work on long texts, in a thread, so that others' requests go on meanwhile.

Design decision: one thread for all graders. The work holds the interpreter's lock, so several would not be faster, and
the event loop would wait for each of them in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="graders")


async def in_thread(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """What `work` returns or raises. It is not begun when nobody waits for it any more."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work, *args)
