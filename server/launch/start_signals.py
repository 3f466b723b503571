"""What a signal does while the server starts: it ends this process and all that it has started, at once.

The handlers stand before anything is imported that takes long. Without them a container would not end: the kernel does
not deliver a signal without a handler to its first process.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn


def end_on_signals() -> None:
    """Until other handlers are set. SIGHUP is left alone where it is ignored, as nohup has it."""
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    for number in signals:
        signal.signal(number, end_the_start)


def end_the_start(number: int, _frame: object) -> NoReturn:
    """A signal handler: ends this process and its children at once, with the status that shells give the signal.

    Design decision: no exception, which vLLM's start swallows in some of its places. There is nothing to finish yet.
    """
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    # Not `print`, which may be interrupted in the middle of a line; and not descriptor 2, which is the engine's log.
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), b"\ntinylora: stopped while it started\n")
    os._exit(128 + number)
