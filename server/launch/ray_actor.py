"""What runs on a node of a Ray cluster (ray_workers.py): the actor around one worker's process.

It imports little, because Ray loads it before it places anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

FIRST_BACKOFF_S = 2.0
MAX_BACKOFF_S = 300.0


class RayWorker:
    """The actor: one `tinylora worker` after another, until `stop`. Methods are called from threads of their own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = [sys.executable, "-m", "server.launch.cli", *command, "--parent", str(os.getpid())]
        self._environment = {**os.environ, **environment}
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Keep a worker running; returns after `stop`."""
        backoff_s = 0.0
        while not self._stopping.wait(backoff_s):
            began = time.monotonic()
            how = self._run_one()
            lived_long = time.monotonic() - began > MAX_BACKOFF_S
            backoff_s = FIRST_BACKOFF_S if lived_long else min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, 2 * backoff_s))
            if not self._stopping.is_set():
                print(f"the worker {how}; another one in {backoff_s:.0f} s", file=sys.stderr, flush=True)

    def _run_one(self) -> str:
        """How it ended."""
        try:
            self._process = subprocess.Popen(self._command, env=self._environment)
        except OSError as error:  # no memory for it at the moment, say
            return f"could not be started ({error})"
        if self._stopping.is_set():  # it came before there was a process to tell
            self._process.terminate()
        return f"ended with status {self._process.wait()}"

    def place(self) -> str:
        """Which node it is on, for people."""
        import ray

        context = ray.get_runtime_context()
        return f"node {context.get_node_id()[:8]} ({ray.util.get_node_ip_address()})"

    def stop(self) -> None:
        """Have the worker give its jobs back and end."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
