"""A job's numbers in Weights & Biases, by its own library without its service, and beside TensorBoard's."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from server.training.jobs.config import SupervisedConfig
from server.training.jobs.protocol import ClaimedJob
from server.training.worker.tracking import Trackers

JOB = ClaimedJob(
    id="ftjob-0123",
    tenant="acme",
    status="running",
    model="base",
    training_file="file-1",
    validation_file=None,
    seed=7,
    method={},
    config=SupervisedConfig(),
    integrations=[{"type": "wandb", "wandb": {"project": "sums", "name": "first", "tags": ["small"]}}],
    metadata={},
    total_steps=4,
    init_vector=None,
    checkpoint=None,
    lease_expires_at=0,
)
BLOCK_BYTES = 32768


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def track(log_dir: Path, steps: range, job: ClaimedJob = JOB) -> None:
    """Write a job's `steps`, and wait for what is done beside it."""
    trackers = Trackers(job, log_dir, steps.start - 1)
    for step in steps:
        trackers.write(step, {"train_loss": 1 / step})
    trackers.close()
    for thread in threading.enumerate():
        if thread.name.startswith("tracking"):
            thread.join(60)


def records(path: Path) -> Iterator[Record]:
    """Of a run's file: LevelDB's log format, behind a header of 7 bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := BLOCK_BYTES - at % BLOCK_BYTES) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def runs(log_dir: Path, count: int) -> list[list[Record]]:
    """All of them, as they were begun, once `count` have ended: another process writes their files."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        paths = sorted(log_dir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name)
        ended = [run for run in map(list, map(records, paths)) if run and run[-1].WhichOneof("record_type") == "exit"]
        if len(ended) == count:
            return ended
        time.sleep(0.02)
    raise AssertionError(f"of {count} runs, {len(ended)} have ended")


def curve(run: list[Record]) -> dict[int, float]:
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in run
        if record.WhichOneof("record_type") == "history"
    ]
    return {row["_step"]: row["train_loss"] for row in rows}


def tensorboard_steps(log_dir: Path) -> list[int]:
    curves = EventAccumulator(str(log_dir / JOB.id))
    curves.Reload()
    return [point.step for point in curves.Scalars("train_loss")]


def test_a_run_without_an_account_is_kept_on_disk_and_goes_on_when_the_job_does(tmp_path: Path) -> None:
    track(tmp_path / "logs", range(1, 3))
    track(tmp_path / "logs", range(3, 5))
    first, second = runs(tmp_path / "logs", 2)
    assert curve(first) == {1: 1.0, 2: 0.5}
    assert curve(second) == {3: 1 / 3, 4: 0.25}
    for run in (first, second):
        (made,) = [record.run for record in run if record.WhichOneof("record_type") == "run"]
        assert (made.run_id, made.project, made.display_name, list(made.tags)) == (JOB.id, "sums", "first", ["small"])
        config = {item.key: json.loads(item.value_json) for item in made.config.update}
        assert (config["model"], config["seed"], config["learning_rate"]) == ("base", 7, JOB.config.learning_rate)
    assert tensorboard_steps(tmp_path / "logs") == [1, 2, 3, 4]


def test_jobs_that_are_trained_together_have_runs_of_their_own(tmp_path: Path) -> None:
    jobs = [JOB.model_copy(update={"id": f"ftjob-{i}"}) for i in range(2)]
    trackers = [Trackers(job, tmp_path, 0) for job in jobs]
    for i, tracker in enumerate(trackers):
        tracker.write(1, {"train_loss": float(i)})
    for tracker in trackers:
        tracker.close()
    track(tmp_path, range(1, 2))
    assert sorted(tuple(curve(run).values()) for run in runs(tmp_path, 3)) == [(0.0,), (1.0,), (1.0,)]


def test_a_key_that_is_none_costs_the_lines_in_weights_and_biases_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
    track(tmp_path, range(1, 4))
    assert tensorboard_steps(tmp_path) == [1, 2, 3]
    assert list(tmp_path.glob("wandb/*run-*")) == []


def at_a_terminal(log_dir: Path) -> int:
    """The exit status of a process that writes step 1 where somebody could be asked for something."""
    program = f"""
from pathlib import Path
from server.training.worker.tracking import Trackers
from server.training.jobs.protocol import ClaimedJob
trackers = Trackers(ClaimedJob.model_validate_json({JOB.model_dump_json()!r}), Path({str(log_dir)!r}), 0)
trackers.write(1, {{"train_loss": 0.5}})
trackers.close()
"""
    keyboard, terminal = pty.openpty()
    try:
        return subprocess.run([sys.executable, "-c", program], stdin=terminal, timeout=60).returncode
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_nobody_is_asked_for_a_key(tmp_path: Path) -> None:
    assert at_a_terminal(tmp_path) == 0
    assert [curve(run) for run in runs(tmp_path, 1)] == [{1: 0.5}]


def test_a_service_that_does_not_answer_keeps_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    assert at_a_terminal(tmp_path) == 0
    assert tensorboard_steps(tmp_path) == [1]
