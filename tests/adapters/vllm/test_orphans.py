"""A process whose parent was killed ends, whatever it makes of SIGTERM."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import psutil
import pytest

from adapters.vllm.orphans import GRACE_S

PARENT = textwrap.dedent(
    """
    import multiprocessing, signal, sys, time
    from adapters.vllm.orphans import end_with_parent

    def engine(drains):
        if drains:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_with_parent()
        print("ready", flush=True)
        time.sleep(600)

    if __name__ == "__main__":
        child = multiprocessing.get_context("spawn").Process(target=engine, args=(sys.argv[1] == "drains",))
        child.start()
        print(child.pid, flush=True)
        child.join()
    """
)


@pytest.mark.parametrize("how", ["ends", "drains"])
def test_it_ends(how: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("parent") / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), how], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        parent.wait()
        assert psutil.wait_procs([child], timeout=GRACE_S + 20)[1] == []
    finally:
        if child.is_running():
            child.kill()
