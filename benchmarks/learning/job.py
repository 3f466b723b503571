"""What the experiment trains on and how: the rows in three parts, and a training job for every arm.

The rows that choose the best checkpoint are not the rows that measure. A job is given two parts, to
train on and to select by; the test rows never reach it. The parts are the same for every arm and seed, so that gains
can be compared row by row; a job's own seed decides the order of its rows and what is sampled.

Settings that an arm and the options leave open are the server's defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.learning.arms import ARMS, grader
from benchmarks.learning.tasks import Task

TEST_ROWS, SELECTION_ROWS, TRAINING_ROWS = 64, 32, 160
# Of arms without gradients. Its steps have as many completions as the others'.
POPULATION = 16
Part = Literal["train", "select", "test"]
Form = Literal["", "answered", "voted"]


@dataclass(frozen=True, slots=True)
class Files:
    """Of rows, as JSONL, in `directory`. `answered`: with the right answer as a message, to be imitated. `voted`: with
    the answer of most samples in place of the right one; they are written when they are needed (votes.py)."""

    directory: Path

    def of(self, part: Part, form: Form = "") -> Path:
        """The file of a part of the rows."""
        return self.directory / f"{part}{form and '-'}{form}.jsonl"


@dataclass(frozen=True, slots=True)
class Options:
    """Of all jobs; None: the server's default. supervised_batch_size: rows in a step of supervised training; the others
    have batch_size * group_size samples. sigma: of arms without gradients."""

    steps: int = 20
    batch_size: int | None = None
    group_size: int | None = None
    learning_rate: float | None = None
    learning_rate_multiplier: float | None = None
    temperature: float | None = None
    eval_interval: int | None = None
    selection_samples: int = 2
    supervised_batch_size: int | None = None
    sigma: float | None = None


def make_files(directory: Path, task: Task) -> Files:
    """Write the three parts: first the test's rows, then those to select by, then those to train on."""
    rows = task.rows(TEST_ROWS + SELECTION_ROWS + TRAINING_ROWS)
    files = Files(directory)
    directory.mkdir(parents=True, exist_ok=True)
    selection, training = rows[TEST_ROWS:][:SELECTION_ROWS], rows[TEST_ROWS + SELECTION_ROWS :]
    parts: dict[Part, list[dict[str, Any]]] = {"train": training, "select": selection, "test": rows[:TEST_ROWS]}
    for part, those in parts.items():
        _write(files.of(part), those)
        _write(files.of(part, "answered"), [_answered(row) for row in those])
    return files


def job_files(name: str, files: Files) -> tuple[Path, Path]:
    """To train on, and to select by."""
    arm = ARMS[name]
    form: Form = "answered" if arm.method == "supervised" else "voted" if arm.rewards == "majority" else ""
    return files.of("train", form), files.of("select", form)


def job_settings(name: str, seed: int, task: Task, options: Options) -> dict[str, Any]:
    """What a job of arm `name` is created with, besides model and files: arguments of the official client."""
    arm = ARMS[name]
    ours: dict[str, Any] = {
        "recipe": arm.recipe.to_dict(),
        "max_steps": options.steps,
        "epochs": 1000,
        "eval_interval": options.eval_interval,
        "learning_rate_multiplier": options.learning_rate_multiplier,
    }
    if arm.method != "supervised":
        ours |= {
            "temperature": options.temperature,
            "max_completion_tokens": task.max_tokens,
            "eval_samples": options.selection_samples,
        }
    match arm.method:
        case "supervised":
            ours |= {"learning_rate": options.learning_rate, "batch_size": options.supervised_batch_size}
        case "reinforcement":
            ours |= {"learning_rate": options.learning_rate}
            ours |= {"batch_size": options.batch_size, "group_size": options.group_size}
        case "evolution":
            ours |= {"sigma": options.sigma, "population_size": POPULATION}
            if options.batch_size is not None and options.group_size is not None:
                ours["batch_size"] = options.batch_size * options.group_size // POPULATION
    method: dict[str, Any] = {"type": arm.method}
    if arm.method != "supervised":
        method[arm.method] = {"grader": grader(arm.rewards, task.grader, task.answer_form)}
    given = {setting: value for setting, value in {**ours, **arm.settings}.items() if value is not None}
    return {"method": method, "seed": seed, "suffix": f"{name}-{seed}", "extra_body": {"tinylora": given}}


def _answered(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [*row["messages"], {"role": "assistant", "content": row["answer"]}]}


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
