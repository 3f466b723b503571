"""`tinylora` as a process of its own, with data of its own, which ends with the block: a server, or a worker of one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.http_servers import started


@contextlib.contextmanager
def server(model: str, directory: Path, *, eager: bool, workers: int = 0) -> Iterator[str]:
    """The URL of a server that runs so many workers itself."""
    print("... tinylora serve", file=sys.stderr, flush=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--host", "127.0.0.1", "--port", str(port), *(["--enforce-eager"] if eager else [])]
    log, url = directory / "server.log", f"http://127.0.0.1:{port}"
    settings = environment(directory) | {"TINYLORA_TRAINING_WORKERS": str(workers)}
    with running(["serve", model, *flags], settings, log) as process:
        if not started(process, url):
            sys.exit(f"The server did not start:\n{log.read_text(errors='replace')}")
        yield url


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`tinylora <command>`, ended behind the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.launch.cli", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def environment(directory: Path) -> dict[str, str]:
    """Of this process, but with data of its own and without keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TINYLORA_")}
    return kept | {
        "TINYLORA_DATABASE_URL": f"sqlite:///{directory / 'tinylora.db'}",
        "TINYLORA_FILES_URL": str(directory / "files"),
        "TINYLORA_ENGINE_LOG": str(directory / "engine.log"),
        "TINYLORA_TRAINING_LOG_DIR": str(directory / "training"),
        "TINYLORA_TRAINING_WORKERS": "0",
    }
