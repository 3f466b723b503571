"""What the engine, its libraries and training workers print goes into a file; the terminal is for what we say.

Design decision: the process's file descriptors are redirected, and every process started later inherits that. Settings
of Python's logging would miss half of the lines, which come from C++ and from other processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

from server.core.background import repeating
from server.launch.start_checks import CannotStart

LONGEST_BYTES = 64 * 2**20
LOOK_S = 60.0
# vLLM's way to say "see above".
_CONSEQUENCES = (
    "Worker failed with error",
    "Engine core initialization failed",
    "EngineCore encountered an issue",
    "Executor failed",
    "ActorHandle objects are not valid",  # Ray's, of an executor that has ended because something else failed
    "cancelled",
)
_PREFIX = re.compile(r"^(?:\([^)]*\) )?(?:(?:ERROR|CRITICAL) [^\]]*\] )?")
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt): (?P<message>.*\S)")


def keep_apart(path: Path) -> None:
    """From now on this process's and its children's output goes to the end of `path`; sys.stdout and sys.stderr stay
    where they were, for us. CannotStart when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            cut_if_long(path)
        opened = path.open("ab")
    except OSError as error:
        raise CannotStart(f"TINYLORA_ENGINE_LOG is {path}, which cannot be written ({error}): name another.") from error
    out, err = _again(sys.stdout), _again(sys.stderr)
    with opened as file:
        file.write(f"\n==== {time.strftime('%Y-%m-%d %H:%M:%S%z')}, process {os.getpid()}\n".encode())
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = out, err
    # `__stderr__` is Python's own for descriptor 2, there and in every process started from here.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.__stderr__")
    logging.captureWarnings(True)
    warnings = logging.getLogger("py.warnings")
    warnings.addHandler(logging.StreamHandler(sys.__stderr__))
    warnings.propagate = False


def cut_if_long(path: Path, longest_bytes: int = LONGEST_BYTES) -> None:
    """Move what is in the file to `<name>.old`, in the place of what was there, if it is long.

    It is copied and emptied, not renamed, for processes that have it open: they append, and go on at its beginning.
    """
    if path.stat().st_size > longest_bytes:
        shutil.copyfile(path, path.with_name(f"{path.name}.old"))
        os.truncate(path, 0)


@asynccontextmanager
async def kept_short(path: Path) -> AsyncIterator[None]:
    """While the block runs, the file does not grow without end."""

    async def look(_ended: asyncio.Event) -> None:
        with suppress(OSError):
            await asyncio.to_thread(cut_if_long, path)

    async with repeating(look, first_s=LOOK_S, every_s=LOOK_S):
        yield


@contextmanager
def others_print() -> Iterator[None]:
    """For imports: loggers that are made inside, with the streams of that moment, print where the others do."""
    ours = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, sys.__stdout__), cast(TextIO, sys.__stderr__)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = ours


def _again(stream: TextIO) -> TextIO:
    # Not inheritable, so that no child keeps the terminal or a pipe open.
    return os.fdopen(os.dup(stream.fileno()), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def reason_in(output: str) -> str | None:
    """The message of the error that came first of those that stand at the end of `output`: the cause, where the others
    say that something has failed. None when there is none."""
    found: str | None = None
    for line in output.splitlines():
        match = _ERROR.fullmatch(_PREFIX.sub("", line))
        if match is not None and not match["message"].startswith(_CONSEQUENCES):
            found = match["message"]
    return found
