"""Comparisons of mathematics (math_worker.py), in processes that are killed when they hang (core/child_pool.py)."""

from __future__ import annotations

import time

from server.core.child_pool import ChildError, ChildPool, ChildUnavailable
from server.limits.fair_semaphore import FairSemaphore


class MathPoolError(Exception):
    """Two answers could not be compared; the message says why."""


class MathUnavailable(Exception):
    """No process could be started, which is a fault of the installation."""


class MathPool:
    """At most `processes` comparisons at a time, each of at most `timeout_s` whole seconds; tenants take turns."""

    def __init__(self, processes: int = 1, timeout_s: int = 5) -> None:
        self._timeout_s = timeout_s
        self._pool = ChildPool("server.training.graders.math_worker", processes=processes)
        self._turns = FairSemaphore(processes, time.monotonic)

    async def equal(self, reference: str, answer: str, tenant: str = "") -> bool:
        """Whether the two are mathematically equal, for `tenant`. MathPoolError when that cannot be found out;
        MathUnavailable."""
        question = {"reference": reference, "answer": answer, "timeout_s": self._timeout_s}
        try:
            # The worker limits each of its steps itself; this limit is for what hangs all the same.
            async with self._turns.slot(tenant):
                result = await self._pool.ask(question, self._timeout_s + 1.0)
        except ChildError as error:
            raise MathPoolError(str(error)) from error
        except ChildUnavailable as error:
            raise MathUnavailable(str(error)) from error
        if "error" in result:
            raise MathPoolError(str(result["error"]))
        return bool(result["equal"])

    async def close(self) -> None:
        """End the processes. Another comparison would start new ones."""
        await self._pool.close()
