"""The demonstration's task as the server's own reader and graders see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from clients.evaluation.public_sets import PUBLIC_SETS
from clients.evaluation.rows import load_rows
from clients.examples.make_task import GRADER, LARGEST, main, make_task
from server.training.graders.build import parse_spec
from server.training.worker.dataset import read_rows


def test_every_sum_is_in_one_of_the_files_and_seeds_decide_in_which(tmp_path: Path) -> None:
    files = make_task(tmp_path / "a", validation=40)
    questions = [[row.messages[-1]["content"] for row in load_rows(str(file))] for file in files]
    assert len(questions[1]) == 40
    assert len({*questions[0], *questions[1]}) == len(questions[0]) + 40 == LARGEST**2
    again, other = make_task(tmp_path / "b", 40), make_task(tmp_path / "c", 40, seed=1)
    assert again[0].read_bytes() == files[0].read_bytes() != other[0].read_bytes()


def test_server_reads_the_rows_and_grades_answers_in_words(
    tmp_path: Path, openai_client: openai.OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tmp_path, validation=5)
    assert capsys.readouterr().out.split() == [str(tmp_path / "train.jsonl"), str(tmp_path / "validation.jsonl")]
    with (tmp_path / "validation.jsonl").open("rb") as file:
        rows = list(read_rows(file, "reinforcement", variables=parse_spec(GRADER).item_variables()))
    assert len(rows) == 5
    graders = openai_client.fine_tuning.alpha.graders
    for wrong in (0, 1):
        answer = f"The answer is {int(rows[0].item['answer']) + wrong}."
        graded = graders.run(grader=GRADER, model_sample=answer, item=dict(rows[0].item))  # type: ignore[arg-type]
        assert graded.reward == 1 - wrong


@pytest.mark.parametrize("name", ["gsm8k", "math500"])
def test_a_public_set_that_cannot_be_had_is_a_sentence(name: str, tmp_path: Path) -> None:
    assert name in PUBLIC_SETS
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "server.launch.cli", "eval", name]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"tinylora: {name} ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
