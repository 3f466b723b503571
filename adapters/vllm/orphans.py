"""Ends an engine whose server was killed, which would otherwise keep its memory and port.

vLLM's engine core waits for requests on a socket and does not notice that there is no server any more to send them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess


def end_with_parent() -> None:
    """In a process that multiprocessing started, send it SIGTERM when its parent has ended. Elsewhere do nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), name="end-with-parent", daemon=True).start()


def _wait(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
