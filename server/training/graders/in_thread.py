"""A grader's work on long texts, in a thread, so that others' requests go on meanwhile.

Design decision: one thread for all graders. The work holds the interpreter's lock, so several would not be faster, and
the event loop would wait for each of them in turn. Tenants take turns at it by time: however much one's graders have to
compare, another's wait for one piece of it.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

from server.limits.fair_semaphore import FairSemaphore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="graders")
_TURNS: WeakKeyDictionary[AbstractEventLoop, FairSemaphore] = WeakKeyDictionary()


async def in_thread(work: Callable[[*Ts], T], *args: *Ts, tenant: str = "") -> T:
    """What `work`, of a tenant's grader, returns or raises. It is not begun when nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    turns = _TURNS.setdefault(loop, FairSemaphore(1, time.monotonic))
    async with turns.slot(tenant):
        return await loop.run_in_executor(_THREAD, work, *args)
