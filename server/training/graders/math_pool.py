"""Processes that compare mathematics (`server.training.graders.math_worker`), each killed when it does not answer.

Design decision: a process answers one question at a time, and whatever goes wrong in between (no answer in time, an
end of the process, a cancelled caller) costs that process; the next question starts another. So no answer can be read
by the wrong caller.

Processes start when first needed (about two seconds of imports) and belong to the event loop of that call.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

START_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[3]


class MathPoolError(Exception):
    """No answer; says why."""


class MathUnavailable(Exception):
    """No process could be started: a fault of the installation, whatever the question."""


class MathPool:
    """At most `processes` comparisons at a time, each of at most `timeout_s` (whole seconds)."""

    def __init__(self, processes: int = 1, timeout_s: int = 5) -> None:
        self._timeout_s = timeout_s
        self._free = asyncio.Semaphore(processes)
        self._idle: list[Process] = []

    async def equal(self, reference: str, answer: str) -> bool:
        """Whether the two are equal. MathPoolError when that cannot be said; MathUnavailable."""
        async with self._free:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                question = {"reference": reference, "answer": answer, "timeout_s": self._timeout_s}
                # The worker's own limits are the same, per step; this one is for what they do not reach.
                result = await _ask(process, json.dumps(question), self._timeout_s + 1.0)
            except BaseException:
                await _kill(process)
                raise
            self._idle.append(process)
        if "error" in result:
            raise MathPoolError(str(result["error"]))
        return bool(result["equal"])

    async def close(self) -> None:
        """End the processes; another question would start new ones."""
        while self._idle:
            await _kill(self._idle.pop())

    async def _start(self) -> Process:
        # Nothing of the environment but what finds the program: it handles text of strangers.
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        command = (sys.executable, "-m", "server.training.graders.math_worker")
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, cwd=_ROOT, env=environment, start_new_session=True
        )
        try:
            await _ask(process, "", START_TIMEOUT_S)
        except BaseException as error:
            await _kill(process)
            if isinstance(error, MathPoolError):
                raise MathUnavailable(f"{' '.join(command)} does not start; what it wrote is above") from error
            raise
        return process


async def _ask(process: Process, question: str, timeout_s: float) -> dict[str, object]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            if question:
                process.stdin.write(question.encode() + b"\n")
                await process.stdin.drain()
            line = await process.stdout.readline()
    except TimeoutError:
        raise MathPoolError(f"no answer within {timeout_s:g} s") from None
    except (ConnectionError, ValueError) as error:
        raise MathPoolError(f"the process that compares mathematics failed: {error}") from error
    if not line.endswith(b"\n"):
        raise MathPoolError("the process that compares mathematics ended; it ran out of memory or time")
    answer: dict[str, object] = json.loads(line)
    return answer


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
