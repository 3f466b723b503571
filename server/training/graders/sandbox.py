"""Runs untrusted `grade(sample, item)` code in a process that reaches neither network, nor files, nor other processes.

What holds, verified inside before the code runs (sandbox_child.py):
    network     a namespace of its own with no interface but an unconnected loopback
    files       a file system of its own: the standard library and shared libraries, read-only, and a /tmp in memory
                that vanishes afterwards; no devices, no /proc, no shell
    processes   a PID namespace of its own; all of it ends when the call does
    identity    no capabilities, no_new_privs, no environment variables; where the server is root, the user nobody
    limits      wall-clock and CPU time, memory, file size, number of processes, open files, length of the answer
What does not: it is the same kernel, without a seccomp filter, and CPU time is shared.

Design decision: all of that or nothing, not as much as the system allows. Where the kernel or the container forbids
namespaces nothing runs, and the error says what is missing.

The code can import the standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.limits.fair_semaphore import FairSemaphore
from server.training.graders.grade import printable

MAX_ANSWER_BYTES = 65_536
START_TIMEOUT_S = 30
_CHILD = Path(__file__).with_name("sandbox_child.py")
_NAMESPACES = {"net": "--net", "mnt": "--mount", "pid": "--pid", "ipc": "--ipc", "uts": "--uts"}


class IsolationUnavailable(Exception):
    """The code was not run, because it could not be isolated; the message says what is missing."""


class SandboxBusy(Exception):
    """It did not start in time, which says nothing of the code: the machine has too much to do."""


class SandboxedCodeError(Exception):
    """The code failed, or could not be started. `printed`: the end of what it printed."""

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.printed = printed


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of one call. timeout_s: wall-clock time; one second more of CPU time. scratch_bytes: the size of /tmp."""

    timeout_s: int = 10
    memory_bytes: int = 512 * 2**20
    scratch_bytes: int = 16 * 2**20
    processes: int = 16


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """The score, the end of what the code printed, and what was verified inside."""

    score: float
    printed: str
    isolation: Mapping[str, Any]


class Sandbox:
    """Runs at most `concurrency` calls at a time, each in a new process; tenants take turns."""

    def __init__(self, limits: SandboxLimits | None = None, concurrency: int = 2) -> None:
        self._limits = limits or SandboxLimits()
        self._turns = FairSemaphore(concurrency, time.monotonic)

    async def grade(
        self, source: str, sample: Mapping[str, Any], item: Mapping[str, Any], tenant: str = ""
    ) -> SandboxResult:
        """Run `source`, which is of `tenant`, and call its grade. Raises IsolationUnavailable, SandboxBusy or
        SandboxedCodeError."""
        answer = await self._call({"source": source, "sample": dict(sample), "item": dict(item)}, tenant)
        return SandboxResult(answer["score"], answer["printed"], answer["isolation"])

    async def check(self, source: str, tenant: str = "") -> Mapping[str, Any]:
        """Compile `source` without running it; returns what was verified inside. Raises as `grade`."""
        isolation: Mapping[str, Any] = (await self._call({"source": source}, tenant))["isolation"]
        return isolation

    async def _call(self, request: dict[str, Any], tenant: str) -> dict[str, Any]:
        limits = self._limits
        async with self._turns.slot(tenant):
            with tempfile.TemporaryDirectory(prefix="tinylora-grader-") as root:
                request |= {
                    "root": root,
                    "host_namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in _NAMESPACES},
                    "cpu_s": limits.timeout_s + 1,
                    "memory_bytes": limits.memory_bytes,
                    "scratch_bytes": limits.scratch_bytes,
                    "processes": limits.processes,
                }
                process = await _start()
                try:
                    output = await _exchange(process, json.dumps(request).encode(), limits.timeout_s)
                finally:
                    await _kill(process)
        return _answer(output, process.returncode)


async def _start() -> Process:
    unshare = shutil.which("unshare")
    if unshare is None:
        raise IsolationUnavailable("python graders need the program unshare (util-linux), which is not installed")
    # Without root, the other namespaces need a user namespace.
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = (
        unshare,
        *user,
        *_NAMESPACES.values(),
        "--fork",
        "--kill-child",
        "--",
        sys.executable,
        "-I",
        "-S",
        "-B",
        str(_CHILD),
    )
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env={}, start_new_session=True
    )


async def _exchange(process: Process, request: bytes, timeout_s: int) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            with contextlib.suppress(ConnectionError):  # It ended early; its output has the reason.
                process.stdin.write(request)
                await process.stdin.drain()
                process.stdin.close()
            output = await process.stdout.readline()
    except TimeoutError:
        raise SandboxBusy(f"the sandbox did not start within {START_TIMEOUT_S} s") from None
    try:
        async with asyncio.timeout(timeout_s):
            while len(output) <= MAX_ANSWER_BYTES and (chunk := await process.stdout.read(MAX_ANSWER_BYTES)):
                output += chunk
            if len(output) <= MAX_ANSWER_BYTES:
                await process.wait()
    except TimeoutError:
        raise SandboxedCodeError(f"it ran longer than {timeout_s} s") from None
    return output


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _answer(output: bytes, status: int | None) -> dict[str, Any]:
    lines = output.splitlines()
    first = _json_object(lines[0] if lines else b"")
    if "isolation_error" in first:
        reason = f"python graders are not run here, because they could not be isolated: {first['isolation_error']}"
        raise IsolationUnavailable(reason)
    said = printable(output[-300:].decode("utf-8", "replace").strip()) or "nothing printed"
    if "isolation" not in first:
        if status == 0 or not said.startswith("unshare:"):
            raise SandboxedCodeError(f"it could not be started (status {status}): {said}")
        raise IsolationUnavailable(
            f"python graders are not run here, because the system does not allow their isolation ({said}); allow "
            "unprivileged user namespaces, or run the server where they are allowed"
        )
    # The code may have written the following lines itself, so they are not trusted.
    last = _json_object(lines[-1]) if len(lines) > 1 else {"error": f"it ended without a result (status {status})"}
    printed = printable(str(last.get("printed", "")))[-1000:]
    if "error" in last:
        raise SandboxedCodeError(printable(str(last["error"]))[:1000], printed)
    score = last.get("score", 0.0)
    if not last or isinstance(score, bool) or not isinstance(score, int | float) or abs(score) > sys.float_info.max:
        raise SandboxedCodeError(f"it ended without a result (status {status}): {said}")
    return {"score": float(score), "printed": printed, "isolation": first["isolation"]}


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
