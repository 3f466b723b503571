"""The files of runs: what was made in another way, or on other rows, is not gone on with and not compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.learning.job import make_files
from benchmarks.learning.run_file import BASE, Run, read_runs, rows_digest
from benchmarks.learning.tasks import TASKS

SCORES = {"sampled": {"scores": [[1, 0]]}}


def test_a_run_is_gone_on_with_on_the_same_rows_by_the_same_settings(tmp_path: Path) -> None:
    file = tmp_path / "grpo-0.json"
    Run(file, {"seed": 0}, "these").save(job="job-1")
    assert Run(file, {"seed": 0}, "these").values["job"] == "job-1"
    with pytest.raises(SystemExit, match="other rows"):
        Run(file, {"seed": 0}, "those")
    with pytest.raises(SystemExit, match="other settings"):
        Run(file, {"seed": 1}, "these")
    with pytest.raises(SystemExit, match=r"grpo-0\.json is of None, not of another; runs of each model need an --out"):
        Run(file, {"seed": 0, "model": "another"}, "these")


def test_a_run_of_before_rows_were_noted_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "grpo-0.json"
    file.write_text(json.dumps({"settings": {}, "job": "job-1"}))
    assert Run(file, {}, "these").values["job"] == "job-1"


def test_runs_are_compared_with_the_base_model_on_the_same_rows_alone(tmp_path: Path) -> None:
    Run(tmp_path / f"{BASE}.json", {}, "these").save(scores=SCORES)
    Run(tmp_path / "grpo-0.json", {}, "these").save(arm="grpo", after={"last": SCORES})
    (tmp_path / "sft-0.json").write_text(json.dumps({"arm": "sft", "after": {"last": SCORES}}))
    Run(tmp_path / "vera-0.json", {}, "these").save(arm="vera", after={"last": SCORES}, before={})
    assert [(run["arm"], run["base"], run["before"]) for run in read_runs(tmp_path)] == [
        ("grpo", SCORES, SCORES), ("sft", SCORES, SCORES), ("vera", SCORES, {})
    ]  # fmt: skip
    Run(tmp_path / "grpo-1.json", {}, "those").save(arm="grpo", after={"last": SCORES})
    with pytest.raises(SystemExit, match=r"grpo-1\.json is of other rows"):
        read_runs(tmp_path)


def test_the_digest_is_of_the_rows_and_of_how_they_are_graded(tmp_path: Path) -> None:
    task = TASKS["sums"]
    files = make_files(tmp_path, task)
    digest = rows_digest(files, task)
    assert rows_digest(make_files(tmp_path / "again", task), task) == digest
    assert rows_digest(files, replace(task, max_tokens=17)) != digest
    assert rows_digest(files, replace(task, grader={**task.grader, "extract": ["boxed"]})) != digest
    files.of("select").write_text(files.of("select").read_text().replace("6", "7"))
    assert rows_digest(files, task) != digest
