"""The benchmark of a card, run here on a model that is tiny: what it records and prints, also when its time is up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.dummy_model import Shape, write_dummy_model
from benchmarks.gpu_machine import with_layers_that_fit
from benchmarks.gpu_options import FIRST_TESTS, Options, engine_tests

pytestmark = pytest.mark.engine

TINY = [
    "--layers=2", "--hidden=64", "--intermediate=96", "--heads=2", "--kv-heads=1", "--vocabulary=128", "--tokens=4",
    "--prompt-tokens=8", "--rounds=2", "--loras=2", "--first-tokens=2", "--batches", "1", "3", "--prefill", "2", "24",
    "--update", "2", "2", "8", "4",
    "--eager",
]  # fmt: skip
A_TEST = "tests/benchmarks/test_paired.py"


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), "--tests", A_TEST, *TINY, *more]


def recorded(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_engines_are_measured_beside_base_and_one_that_fails_stops_nobody(tmp_path: Path) -> None:
    """Without compilation FP8 needs instructions that few CPUs have; where there are, it is measured."""
    parts = ["--parts", "tests", "engines", "--engines", "tinylora, fused", "base, FP8", "--minutes", "6"]
    done = subprocess.run(command(tmp_path, *parts), capture_output=True, text=True, timeout=390)
    found = recorded(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["parts"]["tests"]["status"] == found["parts"]["engines"]["status"] == "done"
    assert found["tests"] == {"passed": 2, "failed": []}
    ours = found["engines"]["tinylora, fused"]
    for column in ("1 at once", "3 at once", "prefill"):
        assert [len(ours[column]["seconds"][who]) for who in ("base", "tinylora, fused")] == [2, 2]
        assert ours[column]["tokens_per_s"] > 0
    assert set(ours["first token"]) == {"new", "one"}
    assert "failed" in found["engines"]["base, FP8"] or "prefill" in found["engines"]["base, FP8"]
    for text in ("tinylora, fused", "base, FP8", "3 at once", "engines: done"):
        assert text in done.stdout


@pytest.mark.parametrize("how", ["time", "signal"])
def test_table_and_results_are_there_when_it_is_cut_off_and_nothing_is_left_running(tmp_path: Path, how: str) -> None:
    minutes = "0.5" if how == "time" else "6"
    running = psutil.Popen(
        command(tmp_path, "--parts", "engines", "serve", "--minutes", minutes), stdout=subprocess.PIPE, text=True
    )
    seen: set[psutil.Process] = set()
    deadline = time.monotonic() + (300 if how == "time" else 8)
    while running.poll() is None and time.monotonic() < deadline:
        seen |= set(running.children(recursive=True)) if running.is_running() else set()
        time.sleep(0.2)
    if how == "signal":
        running.terminate()
    printed, _ = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "engines: " + ("out of time" if how == "time" else "stopped") in printed
    # The time that is left is shared, so that what comes last begins too.
    last = "out of time" if how == "time" else "not reached"
    assert f"serve: {last}" in printed
    assert recorded(tmp_path)["parts"]["serve"]["status"] == last
    _, left = psutil.wait_procs(seen, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


def test_an_update_is_measured_beside_its_limit_and_peft(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "--parts", "training"), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = recorded(tmp_path)["training"]
    assert list(rows) == ["limit", "ours", "PEFT, LoRA of rank 2"]
    assert all(row["seconds"] > 0 and row["bytes_beside_weights"] > 0 for row in rows.values())
    assert "PEFT, LoRA of rank 2" in done.stdout


@pytest.mark.timeout(400)
def test_a_server_answers_and_trains(tmp_path: Path) -> None:
    """With the embedded model: a job of one step, two prompts and two completions of each."""
    parts = ["--parts", "serve", "--job", "1", "2", "2", "--minutes", "6"]
    done = subprocess.run(command(tmp_path, *parts), capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr
    found = recorded(tmp_path)["serve"]
    assert found["start_s"] > 0 and found["answer"] and found["answer_of_the_tuned"]
    assert found["job"].startswith("succeeded in ")
    [(step, reward)] = found["curve"]
    assert step == 1 and 0 <= reward <= 1
    assert "serve: done" in done.stdout and found["job"] in done.stdout


def test_factors_of_a_model_without_weights_are_those_of_its_shape(tmp_path: Path) -> None:
    shape = Shape(layers=2, hidden=64, intermediate=96, heads=2, kv_heads=1, vocabulary=128)
    factors = write_dummy_model(tmp_path / "model", shape)
    assert len(factors.modules) == 14
    u_OR, _, v_IR = factors.triplet("model.layers.1.mlp.down_proj")
    assert (u_OR.shape, v_IR.shape) == ((64, 2), (96, 2))
    assert Shape().parameters() == pytest.approx(7.6e9, rel=0.01)


def test_on_a_small_card_the_model_has_fewer_layers() -> None:
    shape = Shape(layers=28)

    def room_for(layers: int) -> int:
        return 2 * replace(shape, layers=layers).parameters()

    for room, layers in ((room_for(40), 28), (room_for(28), 28), (room_for(9) + 1, 9), (room_for(9) - 1, 8)):
        assert with_layers_that_fit(shape, lambda one: 2 * one.parameters(), room) == replace(shape, layers=layers)
    with pytest.raises(SystemExit, match=r"One layer of the model takes 2\.5 GiB, .* --hidden"):
        with_layers_that_fit(shape, lambda one: 2 * one.parameters(), 2**30)


def test_options_survive_the_way_to_a_part(tmp_path: Path) -> None:
    options = Options(tmp_path, Shape(layers=3), ["base"], (1, 2))
    again = Options.from_json(options.to_json())
    assert again.to_json() == options.to_json() and again.shape == options.shape


def test_the_tests_that_say_most_come_first() -> None:
    """As files: among those of a directory that is given, too, pytest would sort them again."""
    listed = [Path(name) for name in engine_tests()]
    assert [path.name for path in listed[:3]] == list(FIRST_TESTS)
    assert sorted(listed) == sorted((Path(__file__).parents[1] / "engine").glob("test_*.py"))
