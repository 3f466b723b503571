"""Keeps signals that are for the server from its engine: Ctrl-C, the end of a terminal, `tini -g`, `timeout`.

They go to all processes of a group. vLLM's engine core takes SIGINT and SIGTERM for its own end, from then on rejects
requests, and SIGHUP kills it; a server that ends lets its answers end first, for which it needs the engine.
"""

from __future__ import annotations

import multiprocessing
import os


def leave_group_of_parent() -> None:
    """Put a process that multiprocessing started, and what it starts, into a group of its own. Elsewhere do nothing."""
    # The first of a group is the first of its own, and of a session it cannot leave.
    if multiprocessing.parent_process() is not None and os.getpgrp() != os.getpid():
        os.setpgrp()
