"""What the environment of a server is, before anything that reads it is imported."""

from __future__ import annotations

import os

MULTIPROC_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def settle_environment() -> None:
    """Set what the operator has not set, and take out what would break a server. For this process and its children."""
    # Standard output is for what the server says of itself; vLLM's lines would bury it. Set the variable to see them.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # Meant for servers of several processes, as gunicorn's. Here one process has all metrics; with it, they would go
    # into files of that directory, whose counts are read again by a later process with the same number.
    os.environ.pop(MULTIPROC_VARIABLE, None)
