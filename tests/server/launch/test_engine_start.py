"""An engine that dies while it starts: the wait for it ends, with its reason. Engines here only have its name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server.launch.engine_output import reason_in
from server.launch.engine_watch import EngineDied, engine_processes, watched_start

# As vLLM names its own, by the same package.
ENGINE = "import setproctitle, sys, time; setproctitle.setproctitle('VLLM::EngineCore'); print('up', flush=True); "
OUTPUT = """\
(MainProcess pid=1) WARNING 11-27 00:05:34 [system_utils.py:255] errors like `OSError: [Errno 24] Too many open files`
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063] Traceback (most recent call last):
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063]     raise InductorError(e, currentframe())
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063] torch._inductor.exc.InductorError: No compiler found
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063]
(EngineCore pid=2) ERROR 11-27 00:07:38 [core.py:1510] EngineCore failed to start.
(EngineCore pid=2) ERROR 11-27 00:07:38 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-27 00:07:38 [core.py:1510] RuntimeError: Worker failed with error 'No compiler found'
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def start(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", ENGINE + code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


def test_the_reason_is_the_cause_and_not_what_came_of_it() -> None:
    assert reason_in(OUTPUT) == "No compiler found"
    assert reason_in("everything is fine\n") is None


def test_engine_that_says_that_it_failed_and_hangs_is_ended_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("ValueError: of an earlier start\n")
    told = pytest.raises(EngineDied, match=r"did not start: No compiler found \(.*engine\.log")
    with start("time.sleep(600)") as process, told, watched_start(log):
        with log.open("a") as file:
            file.write(OUTPUT)
        process.wait()  # as vLLM waits for it, and for nothing else
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    assert process.returncode == -9


def test_dead_part_of_an_engine_ends_the_others(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.touch()
    told = pytest.raises(EngineDied, match="without a word, as when memory runs out")
    with start("time.sleep(600)") as engine, start("time.sleep(600)") as worker, told, watched_start(log):
        deadline = time.monotonic() + 30
        while len(engine_processes()) < 2:
            assert time.monotonic() < deadline
        time.sleep(1)  # until the watch has seen both
        worker.kill()
        engine.wait()
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    assert engine.returncode == -9


def test_other_errors_of_the_start_are_told_in_their_last_line() -> None:
    with pytest.raises(EngineDied, match=r"did not start: the model is not supported \(.*above"), watched_start(None):
        raise ValueError("1 validation error\nthe model is not supported")


def test_engine_that_starts_is_left_alone(tmp_path: Path) -> None:
    with start("time.sleep(600)") as process:
        with watched_start(None):
            time.sleep(1)
        assert process.poll() is None
        process.kill()


APART = """
import os, subprocess, sys, warnings
from pathlib import Path
from server.launch.engine_output import keep_apart, others_print
keep_apart(Path(sys.argv[1]))
print("ours, out")
print("ours, err", file=sys.stderr)
os.write(2, b"of C++\\n")
warnings.warn("of a library")
with others_print():
    import logging
    logging.basicConfig()
logging.warning("of a logger")
subprocess.run(["echo", "of a child"])
"""


def test_what_others_print_goes_into_the_file_and_what_we_print_does_not(tmp_path: Path) -> None:
    log = tmp_path / "data" / "engine.log"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", APART, str(log)], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ours, out\n", "ours, err\n")
    kept = log.read_text()
    assert [kept.count(text) for text in ("of C++", "of a library", "of a logger", "of a child")] == [2] * 4
    assert "ours" not in kept and kept.count("====") == 2


STARTING = """
import signal, subprocess, sys, time
from server.launch.engine_watch import end_the_start
signal.signal(signal.SIGTERM, end_the_start)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
while True:
    try:
        time.sleep(600)
    except BaseException:  # as in some places of vLLM's start
        pass
"""


def test_a_signal_ends_a_start_and_its_engine_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTING], stdout=subprocess.PIPE, text=True) as starting:
        assert starting.stdout is not None
        engine = psutil.Process(int(starting.stdout.readline()))
        starting.terminate()
        assert starting.wait(timeout=60) == 128 + signal.SIGTERM
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
