"""A gateway over the fake engine as a process of its own, to run several of them, and to kill them.

Design decision: a process imports what it needs at once, which takes seconds, and opens the database only when told. So
tests have the next one ready while one is running, and it still finds what the last one left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import uvicorn

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.launch.bounded_http import BoundedHttp
from server.launch.draining import DrainingServer
from tests.server.support.fake_engine import FakeEngine, tiny_factors

NOTHING: Mapping[str, str] = {}
# Seconds between the chunks of a stream, and before a whole answer.
CHUNK_VARIABLE = "TINYLORA_TEST_CHUNK_S"


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

    def serve(self, database_url: str, port: int = 0) -> str:
        """The gateway's URL, once it listens, on a port of its own choice with 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps([database_url, port]), file=self._process.stdin, flush=True)
        url = self._process.stdout.readline().strip()
        assert url.startswith("http://"), "the gateway ended while it started; its errors are above"
        return url

    def kill(self) -> None:
        """End it as nothing can be prepared for."""
        self._process.kill()
        self._process.communicate()

    def terminate(self) -> None:
        """Tell it to end."""
        self._process.terminate()

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        self._process.communicate(timeout=60)
        return self._process.returncode

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


def main() -> None:
    """Serve as `tinylora serve` does, once the URL of a database and a port are said: as the argument, or on standard
    input."""
    with tempfile.TemporaryDirectory() as directory:
        engine = FakeEngine(tiny_factors(Path(directory)))
    engine.chunk_s = float(os.environ.get(CHUNK_VARIABLE, "0"))
    line = sys.argv[1] if len(sys.argv) > 1 else sys.stdin.readline()
    if line:
        url, port = json.loads(line)
        asyncio.run(_serve(Settings(database_url=url, log_level="error"), engine, port))


async def _serve(settings: Settings, engine: FakeEngine, port: int) -> None:
    app = create_app(settings, engine, Database(settings.database_url))
    config = uvicorn.Config(app, http=BoundedHttp, port=port, log_level="error", access_log=False)
    config.timeout_keep_alive, config.timeout_graceful_shutdown = 75, 60
    server = DrainingServer(
        config,
        on_listening=lambda: print(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", flush=True),
        on_draining=app.state.gateway.draining.set,
        background=app.state.gateway.responses.running_in_background,
        notice_s=settings.drain_notice_s,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    main()
