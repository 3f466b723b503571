"""A gateway over the fake engine as a process of its own, to run several of them, and to kill them.

Design decision: a process imports what it needs at once, which takes seconds, and opens the database only when told. So
tests have the next one ready while one is running, and it still finds what the last one left behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine, tiny_factors

NOTHING: Mapping[str, str] = {}


class GatewayProcess:
    """A gateway that is getting ready; `serve` makes it open a database and listen."""

    def __init__(self, environment: Mapping[str, str] = NOTHING) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.support.serve_fake"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def serve(self, database_url: str) -> str:
        """The gateway's URL, once it listens."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(database_url, file=self._process.stdin, flush=True)
        url = self._process.stdout.readline().strip()
        assert url.startswith("http://"), "the gateway ended while it started; its errors are above"
        return url

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """End it in good order, or at once if that takes too long."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def gateway_processes(count: int, environment: Mapping[str, str] = NOTHING) -> Iterator[list[GatewayProcess]]:
    """So many gateways that get ready, stopped in the end."""
    processes = [GatewayProcess(environment) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.stop()


class _AnnouncingServer(uvicorn.Server):
    """Says where it listens as soon as it does."""

    async def startup(self, *args: object, **kwargs: object) -> None:
        await super().startup(*args, **kwargs)  # type: ignore[arg-type]
        print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


def main() -> None:
    """Wait for the URL of a database on standard input, then serve."""
    with tempfile.TemporaryDirectory() as directory:
        engine = FakeEngine(tiny_factors(Path(directory)))
    url = sys.stdin.readline().strip()
    if url:
        settings = Settings(database_url=url, log_level="error")
        app = create_app(settings, engine, Database(url))
        _AnnouncingServer(uvicorn.Config(app, port=0, log_level="error", access_log=False)).run()


if __name__ == "__main__":
    main()
