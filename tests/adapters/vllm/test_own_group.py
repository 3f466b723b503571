"""A signal to the server's process group, such as Ctrl-C, does not reach the engine, which ends with its server all the
same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from adapters.vllm.orphans import GRACE_S

SERVER = textwrap.dedent(
    """
    import multiprocessing, os, signal, subprocess, sys, time
    from adapters.vllm.plugin import register

    def engine():
        register()  # as vLLM calls it, before it starts its workers
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(os.getpid(), worker.pid, flush=True)
        time.sleep(600)

    if __name__ == "__main__":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _: print(got, flush=True))  # it drains
        multiprocessing.get_context("spawn").Process(target=engine, daemon=True).start()
        while True:
            time.sleep(600)
    """
)


def test_signals_of_the_group_reach_the_server_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("server") / "program"
    script.write_text(SERVER)
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdout is not None
    engine = [psutil.Process(int(pid)) for pid in server.stdout.readline().split()]
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.killpg(server.pid, number)
            assert int(server.stdout.readline()) == number
        assert [process.status() != psutil.STATUS_ZOMBIE for process in engine] == [True, True]
        assert {os.getpgid(process.pid) for process in engine} == {engine[0].pid}
        server.kill()
        server.wait()
        assert psutil.wait_procs(engine[:1], timeout=GRACE_S + 20)[1] == []
    finally:
        for process in engine:
            if process.is_running():
                process.kill()
        server.kill()
