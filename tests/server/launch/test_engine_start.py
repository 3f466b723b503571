"""An engine that dies while it starts: the wait for it ends, with its reason. Engines here only have its name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server.launch.engine_output import cut_if_long, reason_in
from server.launch.engine_watch import GRACE_S, POLL_S, EngineDied, engine_processes, watched_start

# As vLLM names its own, by the same package.
ENGINE = "import setproctitle, sys, time; setproctitle.setproctitle('VLLM::EngineCore'); print('up', flush=True); "
OUTPUT = """\
(MainProcess pid=1) WARNING 11-27 00:05:34 [system_utils.py:255] errors like `OSError: [Errno 24] Too many open files`
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063] Traceback (most recent call last):
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063]     raise InductorError(e, currentframe())
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063] torch._inductor.exc.InductorError: No compiler found
(Worker pid=3) ERROR 11-27 00:07:38 [multiproc_executor.py:1063]
(EngineCore pid={engine}) ERROR 11-27 00:07:38 [core.py:1510] EngineCore failed to start.
(EngineCore pid={engine}) ERROR 11-27 00:07:38 [core.py:1510] Traceback (most recent call last):
(EngineCore pid={engine}) ERROR 11-27 00:07:38 [core.py:1510] RuntimeError: Worker failed with error 'No compiler found'
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
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
            file.write(OUTPUT.format(engine=process.pid))
        process.wait()  # as vLLM waits for it, and for nothing else
        raise RuntimeError("Engine core initialization failed. See root cause above.")
    assert process.returncode == -9


def test_what_another_servers_engine_prints_into_the_same_file_ends_none_of_ours(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.touch()
    with start("time.sleep(600)") as process:
        with watched_start(log):
            log.write_text(OUTPUT.format(engine=os.getpid()))
            time.sleep(POLL_S * 2 + GRACE_S)
        assert process.poll() is None
        process.kill()


def test_a_log_that_was_removed_does_not_hide_why_the_engine_did_not_start(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.touch()
    with pytest.raises(EngineDied, match="the model is not supported"), watched_start(log):
        log.unlink()
        raise ValueError("the model is not supported")


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
import subprocess, sys, time
from pathlib import Path
from server.launch.engine_output import keep_apart
from server.launch.start_signals import end_on_signals
end_on_signals()
keep_apart(Path(sys.argv[1]))
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
while True:
    try:
        time.sleep(600)
    except BaseException:  # as in some places of vLLM's start
        pass
"""


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_start_and_its_engine_at_once(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "engine.log"
    command = [sys.executable, "-c", STARTING, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as starting:
        assert starting.stdout is not None and starting.stderr is not None
        engine = psutil.Process(int(starting.stdout.readline()))
        starting.send_signal(number)
        assert starting.wait(timeout=60) == 128 + number
        assert "stopped while it started" in starting.stderr.read()
    assert "stopped" not in log.read_text()
    psutil.wait_procs([engine], timeout=60)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_start_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, "-c", STARTING, str(tmp_path / "engine.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as starting:
        assert starting.stdout is not None
        starting.stdout.readline()
        starting.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert starting.poll() is None
        starting.terminate()


def test_a_long_log_is_moved_away_from_under_those_who_write_it(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"of yesterday" * 10)
        cut_if_long(log, longest_bytes=1000)
        assert log.stat().st_size == 120
        cut_if_long(log, longest_bytes=100)
        writer.write(b"of today")
    assert log.read_bytes() == b"of today"
    assert (tmp_path / "engine.log.old").read_bytes() == b"of yesterday" * 10
