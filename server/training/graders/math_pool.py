"""Comparisons of mathematics (math_worker.py), in processes that are killed when they hang (core/child_pool.py)."""

from __future__ import annotations

from server.core.child_pool import ChildError, ChildPool, ChildUnavailable


class MathPoolError(Exception):
    """Two answers could not be compared; the message says why."""


class MathUnavailable(Exception):
    """No process could be started, which is a fault of the installation."""


class MathPool:
    """At most `processes` comparisons at a time, each of at most `timeout_s` whole seconds."""

    def __init__(self, processes: int = 1, timeout_s: int = 5) -> None:
        self._timeout_s = timeout_s
        self._pool = ChildPool("server.training.graders.math_worker", processes=processes)

    async def equal(self, reference: str, answer: str) -> bool:
        """Whether the two are mathematically equal. MathPoolError when that cannot be found out; MathUnavailable."""
        question = {"reference": reference, "answer": answer, "timeout_s": self._timeout_s}
        try:
            # The worker limits each of its steps itself; this limit is for what hangs all the same.
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
