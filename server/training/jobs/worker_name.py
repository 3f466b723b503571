"""The names by which workers claim jobs."""

from __future__ import annotations

import os
import secrets
import socket


def new_worker_name() -> str:
    """Of one process, and never of another: a lease must not pass to one of the same name, and process ids are used
    again."""
    return f"{socket.gethostname()[:80]}-{os.getpid()}-{secrets.token_hex(8)}"
