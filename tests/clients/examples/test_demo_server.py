"""The server that the example starts for itself: what it prints is in a file, and its reason for ending is shown."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def test_server_that_does_not_start_ends_the_example_with_its_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "clients.examples.train", "--serve", "--url", f"http://localhost:{port}"]
        root = Path(__file__).parents[3]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == 1
    first, last = done.stdout.strip().splitlines()
    assert first == f"Starting a server on port {port}; what it prints goes to data/server.log"
    assert last.startswith(f"tinylora: Port {port} is taken")
    assert (tmp_path / "data" / "server.log").read_text().strip() == last
