"""Runs by TRL and PEFT on a tiny model that learns nothing from them: their files are those that the page reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.learning.page import LABELS, task_table
from benchmarks.learning.peft_methods import LEARNING_RATES, adapted, trained_numbers
from benchmarks.learning.run_file import Run, read_runs, rows_digest
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.trl_peer import Peer
from benchmarks.learning.trl_training import Settings
from tests.adapters.tiny_models import SHAPE, load_model, logits, save_model
from tests.server.support.sampling_engine import tiny_tokenizer
from tests.server.support.site import SIMILAR

ROWS = 3
SETTINGS = Settings(learning_rate=0.1, steps=2, max_completion_tokens=3, batch_size=2, group_size=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = save_model(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("method", LEARNING_RATES)
def test_a_method_begins_as_the_base_model_and_trains_what_it_says(method: str, model: Path) -> None:
    base = load_model(model)
    modules = [one for name, one in base.named_modules() if name.endswith("_proj")]
    outputs = [one.weight.shape[0] for one in modules]  # type: ignore[union-attr]
    inputs = [one.weight.shape[1] for one in modules]  # type: ignore[union-attr]
    numbers = {
        "tinylora": 13,
        "lora-xs": 4 * len(modules),
        "rank-1-lora": sum(inputs) + sum(outputs),
        "vera": 256 * len(modules) + sum(outputs),
    }
    assert len(modules) == 7 * SHAPE["num_hidden_layers"]
    before = logits(base)
    peers = adapted(base, method)
    assert trained_numbers(peers) == numbers[method]
    torch.testing.assert_close(logits(peers.eval()), before, atol=1e-5, rtol=0)


def test_runs_are_in_the_table_and_done_once(model: Path, tmp_path: Path) -> None:
    out, task = tmp_path / "sums", replace(TASKS["sums"], max_tokens=3, grader=SIMILAR)
    peer = Peer(str(model), out, task, tmp_path / "rows")
    del peer.rows[ROWS:]
    # What `python -m benchmarks.learning` writes first.
    scored = {"sampled": {"scores": [[1, 0, 0, 1]] * ROWS}, "greedy": {"scores": [[1]] * ROWS}}
    Run(out / "base.json", {}, rows_digest(peer.files, task)).save(scores=scored)
    for method in LEARNING_RATES:
        peer.run(method, SETTINGS)
    written = {file.name: file.read_bytes() for file in out.iterdir()}

    runs = {run["arm"]: run for run in read_runs(out)}
    assert set(runs) == set(LEARNING_RATES)
    for run in runs.values():
        assert run["after"]["last"] != run["before"], "nothing was trained"
        assert [step["step"] for step in run["steps"]] == [1, 2]
        assert run["completions"] == 2 * 2 * 2
        assert run["settings"]["max_completion_tokens"] == 3
        for measured in (run["before"], run["after"]["last"]):
            assert 1 <= measured["sampled"]["tokens"] <= 3
            for name in ("scores", "exact"):
                assert [len(row) for row in measured["greedy"][name]] == [1] * ROWS
                assert [len(row) for row in measured["sampled"][name]] == [4] * ROWS
    lines = task_table(list(runs.values())).splitlines()
    # The base model is the engine's, whatever TRL measured of it.
    assert lines[2].startswith("| base model | 0 | | 1.00 | | 0.50 |")
    assert [line.split(" | ")[0] for line in lines[3:]] == [
        f"| {LABELS[method]}" for method in LABELS if method in runs
    ]

    for method in LEARNING_RATES:
        peer.run(method, SETTINGS)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == written
    with pytest.raises(SystemExit, match="other settings"):
        peer.run("vera", replace(SETTINGS, steps=3))
