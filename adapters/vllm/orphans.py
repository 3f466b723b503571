"""Ends an engine whose server was killed, which would otherwise keep its memory and port.

vLLM's engine core waits for requests on a socket and does not notice that there is no server any more to send them.
SIGTERM alone may not end it soon: it then finishes the answers that it has begun, which nobody waits for.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess

# From SIGTERM, in which it may end by itself, to SIGKILL.
GRACE_S = 5.0


def end_with_parent() -> None:
    """In a process that multiprocessing started, end it when its parent has ended. Elsewhere do nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait, args=(parent,), name="end-with-parent", daemon=True).start()


def _wait(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
