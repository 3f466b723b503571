"""Graders' work on long texts, in a thread, so that others' requests go on meanwhile.

Design decision: one thread for all graders. The work holds the interpreter's lock, so several would not be faster, and
the event loop would wait for each of them in turn. Tenants take turns at it by time: however much one's graders have to
compare, another's wait for one piece of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, TypeVarTuple

from server.limits.fair_semaphore import FairSemaphore

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class InThread(Protocol):
    """Does a tenant's work in a thread; `asyncio.to_thread`, where there is but one tenant."""

    async def __call__(self, work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """What `work` returns or raises."""


class GraderThread:
    """The thread of all tenants' graders. For one event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="graders")
        self._turns = FairSemaphore(1, time.monotonic)

    async def run(self, tenant: str, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """What `work`, of a tenant's grader, returns or raises. It is not begun when nobody waits for it any more."""
        async with self._turns.slot(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def close(self) -> None:
        """End the thread when it has done what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)
