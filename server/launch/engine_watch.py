"""Ends an engine that died while it started; otherwise the server would wait for it for ever.

A dead engine is recognised by its processes and by what it prints. Its processes are then killed, which the start that
waits for them notices. vLLM's own watch is not enough: it waits for the end of the engine's process, which may itself
be waiting for a worker that raised and does not end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from vllm import envs

from server.launch.engine_output import reason_in
from server.launch.start_checks import CannotStart

# With the process that it is said of: another server may print into the same file.
FAILED = re.compile(r"^\(\S+ pid=(\d+)\).*EngineCore failed to start", re.MULTILINE)
POLL_S = 0.5
# In which an engine that has failed may end by itself, having told the others.
GRACE_S = 5.0
MAX_READ_BYTES = 2**20


class EngineDied(CannotStart):
    """The engine ended while it started; the message gives its reason."""


@contextmanager
def watched_start(log: Path | None) -> Iterator[None]:
    """Inside, the engine may take its time to start, but not to be dead. `log` is where it prints, if it is a file.

    EngineDied for every exception inside but CannotStart, with the engine's own reason where it can be found.
    """
    begin = log.stat().st_size if log is not None and log.exists() else 0

    def printed() -> str:
        if log is None:
            return ""
        try:
            with log.open("rb") as file:
                file.seek(begin)
                return file.read()[-MAX_READ_BYTES:].decode(errors="replace")
        except OSError:  # it was removed
            return ""

    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over, printed), daemon=True)
    watch.start()
    try:
        yield
    except CannotStart:
        raise
    except Exception as error:
        where = "above" if log is None else f"in {log}"
        reason = reason_in(printed()) or reason_in(f"Error: {_last_line(error)}") or _without_a_word(error)
        raise EngineDied(f"The engine did not start: {reason} (All that it printed is {where}.)") from error
    finally:
        over.set()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else ""


def _without_a_word(error: Exception) -> str:
    return f"its process ended without a word, as when memory runs out ({type(error).__name__}); see dmesg."


def _watch(over: threading.Event, printed: Callable[[], str]) -> None:
    seen: dict[int, psutil.Process] = {}
    while not over.wait(POLL_S):
        seen |= {process.pid: process for process in engine_processes()}
        failed = any(int(process) in seen for process in FAILED.findall(printed()))
        if failed or any(not is_alive(process) for process in seen.values()):
            if not over.wait(GRACE_S):
                end_engine()
            return


def engine_processes() -> list[psutil.Process]:
    """Those of this process's engine that run under their titles."""
    found = []
    title = f"{envs.VLLM_PROCESS_NAME_PREFIX}::"
    for process in psutil.Process().children(recursive=True):
        try:
            if (process.cmdline() or [""])[0].startswith(title):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and that nobody has asked about does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def end_engine() -> None:
    """Kill what is left of this process's engine."""
    for process in engine_processes():
        try:
            process.kill()
        except psutil.Error:
            continue
