"""docs/evidence.md is what the committed runs say."""

from __future__ import annotations

import json

import pytest

from benchmarks.learning.arms import grader
from benchmarks.learning.measuring import is_exact
from benchmarks.learning.page import PAGE, RUNS, page, read_all
from benchmarks.learning.tasks import TASKS
from benchmarks.learning.untrained import UNTRAINED
from server.training.graders.build import parse_spec


def test_the_page_is_that_of_the_committed_runs() -> None:
    assert PAGE.read_text() == page(read_all(RUNS)), "docs/evidence.md is not of these runs: make evidence"


def test_what_has_no_seed_is_not_missing_where_it_was_run_once() -> None:
    one = {"sampled": {"scores": [[1, 0]] * 3}, "greedy": {"scores": [[1]] * 3}}
    runs = [
        {"arm": arm, "seed": 0, "base": one, "before": one, "after": {"last": one}, "settings": {}}
        for arm in ("constant", "grpo")
    ]
    written = page({"sums": runs})
    missing = {
        line.split("`")[1]: line.partition(": ")[2]
        for line in written.splitlines()
        if line.startswith("- ") and "`)" in line
    }
    assert missing["grpo"] == "all tasks"
    assert missing["constant"] == ", ".join(name for name in TASKS if name != "sums")
    assert f"| {UNTRAINED['constant']} |  | any |" in written


def test_every_committed_run_is_finished() -> None:
    for file in RUNS.glob("*/*.json"):
        run = json.loads(file.read_text())
        assert "after" in run or "scores" in run, f"{file}: finish it by the same command, or delete it"


@pytest.mark.parametrize(
    ("completion", "is_it"), [("12", True), (" 12.\n", True), ("It is 12", False), ("12.5", False), ("", False)]
)
def test_only_the_answer_itself_is_exact(completion: str, is_it: bool) -> None:
    assert is_exact(completion, "12") is is_it


def test_every_task_has_graders_for_every_kind_of_rewards() -> None:
    for task in TASKS.values():
        for rewards in ("task", "random", "format", "majority"):
            parse_spec(grader(rewards, task.grader, task.answer_form))  # type: ignore[arg-type]


def test_rewards_for_the_form_alone_take_any_answer_and_no_sentence() -> None:
    source = grader("format", {}, TASKS["sums"].answer_form)["source"]
    names: dict[str, object] = {}
    exec(source, names)
    grade = names["grade"]
    assert [grade({"output_text": text}, {}) for text in (" -7\n", "0", "It is 7", "7 8", "")] == [1, 1, 0, 0, 0]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("task", "completion", "answer"),
    [
        ("sums", "3 + 4 = 7.", "7"),
        ("sums", "3 - 4 = -1, I think", "-1"),
        ("sums", "seven", None),
        # Their last digits are not what was said.
        ("products", "9,114", None),
        ("products", "It is 12, not 12.5", "12"),
        ("syllogisms", "Yes, it follows", "Yes"),
        ("needles", "It is Kurtis-Jae.", "Kurtis-Jae"),
    ],
)
def test_the_last_part_with_the_form_of_an_answer_is_voted_for(task: str, completion: str, answer: str | None) -> None:
    assert TASKS[task].answer_in(completion) == answer
