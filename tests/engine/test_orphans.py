"""An engine does not outlive the process that it answers to."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.engine.conftest import Tiny

pytestmark = pytest.mark.engine

STARTS_AN_ENGINE = """
import sys, time
from adapters.factors.factors import open_factors
from tests.engine.running import RunningEngine

if __name__ == "__main__":
    running = RunningEngine(sys.argv[1], open_factors(sys.argv[2]))
    print("ready", flush=True)
    time.sleep(600)
"""


def test_an_engine_ends_when_its_server_is_killed(llama: Tiny) -> None:
    command = [sys.executable, "-c", STARTS_AN_ENGINE, str(llama.path), str(llama.factors.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert any(line == "ready\n" for line in server.stdout)
        engine = psutil.Process(server.pid).children(recursive=True)
        assert len(engine) >= 2
        server.kill()
    _, alive = psutil.wait_procs(engine, timeout=60)
    for process in alive:
        process.kill()
    assert not alive, f"still there after their server was killed: {alive}"
