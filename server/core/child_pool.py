"""Processes that answer questions line by line, in JSON, each killed when it does not answer.

A process answers one question at a time. If it gives no answer in time, ends, or its caller is cancelled, it is killed,
and the next question starts another one: no caller can read another's answer, and a question that hangs or takes all
memory does so outside the server.

Processes start when first needed and belong to the event loop of that call. What they do is in modules of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

START_TIMEOUT_S = 60.0
_ROOT = Path(__file__).parents[2]


class ChildError(Exception):
    """No answer; says why."""


class ChildUnavailable(Exception):
    """No process could be started: a fault of the installation, whatever the question."""


class ChildPool:
    """At most `processes` of `python -m module` at a time.

    Each gets the line `greeting`, if there is one, and says with a line of its own that it is ready.
    """

    def __init__(self, module: str, *, processes: int = 1, greeting: str = "") -> None:
        self._module = module
        self._greeting = greeting
        self._free = asyncio.Semaphore(processes)
        self._idle: list[Process] = []

    async def ask(self, question: Mapping[str, object], timeout_s: float) -> dict[str, object]:
        """The answer, waiting for it at most `timeout_s`. ChildError when there is none; ChildUnavailable."""
        async with self._free:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                answer = await _ask(process, json.dumps(question), timeout_s)
            except BaseException:
                await _kill(process)
                raise
            self._idle.append(process)
            return answer

    async def warm(self) -> None:
        """Start one process now, so that the first question need not wait for it. ChildUnavailable."""
        async with self._free:
            if not self._idle:
                self._idle.append(await self._start())

    async def close(self) -> None:
        """End the processes; another question would start new ones."""
        while self._idle:
            await _kill(self._idle.pop())

    async def _start(self) -> Process:
        # Nothing of the environment but what finds the program: it handles text of strangers.
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        command = (sys.executable, "-m", self._module)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, cwd=_ROOT, env=environment, start_new_session=True
        )
        try:
            await _ask(process, self._greeting, START_TIMEOUT_S)
        except BaseException as error:
            await _kill(process)
            if isinstance(error, ChildError):
                raise ChildUnavailable(f"{' '.join(command)} does not start; what it wrote is above") from error
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
        raise ChildError(f"no answer within {timeout_s:g} s") from None
    except (ConnectionError, ValueError) as error:
        raise ChildError(f"the process that was asked failed: {error}") from error
    if not line.endswith(b"\n"):
        raise ChildError("the process that was asked ended; it ran out of memory or time")
    answer: dict[str, object] = json.loads(line)
    return answer


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
