"""What learning.py trains on and how: the rows in three parts, and a training job for every arm.

The rows that choose the best checkpoint are not the rows that measure. A job is given two parts, to
train on and to select by; the test rows never reach it. The parts are the same for every arm and seed, so that gains
can be compared row by row; a job's own seed decides the order of its rows and what is sampled.

The arms are in ARMS: what is trained (a recipe), how (a method of the server), and by which rewards. Settings that an
arm and the options leave open are the server's defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from adapters.vector.recipe import Recipe
from benchmarks.tasks import Task

TEST_ROWS, SELECTION_ROWS, TRAINING_ROWS = 64, 32, 160
# About what the base model's rewards are at first, and so about as many groups with different rewards.
RANDOM_REWARD = 0.4
RANDOM_GRADER: Mapping[str, Any] = MappingProxyType(
    {
        "type": "python",
        "name": "random",
        "source": f"import random\n\n\ndef grade(sample, item):\n    return float(random.random() < {RANDOM_REWARD})\n",
    }
)


@dataclass(frozen=True, slots=True)
class Arm:
    """label: in tables. is_random: rewards are drawn, whatever the answer. settings: more, of the job."""

    label: str
    recipe: Recipe = field(default_factory=Recipe)
    method: Literal["reinforcement", "supervised", "evolution"] = "reinforcement"
    is_random: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


# Of SmolLM2-135M: 30 layers of 7 linear modules.
_UNTIED = Recipe(rank=2, u=4, groups=210, projection="elementary")
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "grpo": Arm("GRPO"),
        "random": Arm("GRPO, random rewards", is_random=True),
        "sft": Arm("supervised", method="supervised"),
        "cma-es": Arm("evolution, CMA-ES", method="evolution", settings={"algorithm": "cma_es"}),
        "openai-es": Arm("evolution, OpenAI-ES", method="evolution", settings={"algorithm": "openai_es"}),
        "grpo-1": Arm("GRPO", Recipe(groups=1)),
        "grpo-4": Arm("GRPO", Recipe(groups=4)),
        "grpo-49": Arm("GRPO", Recipe(groups=49)),
        "grpo-196": Arm("GRPO", Recipe(groups=196)),
        "grpo-structured": Arm("GRPO, structured tying", Recipe(tying="structured", groups=14)),
        "grpo-tiled-14": Arm("GRPO, tiled tying", Recipe(groups=14)),
        "grpo-u-13": Arm("GRPO, one group of 13 numbers", Recipe(groups=1, u=13)),
        "grpo-rank-1": Arm("GRPO, rank 1", Recipe(rank=1)),
        "grpo-840": Arm("GRPO, LoRA-XS", _UNTIED),
    }
)
# Of arms without gradients. Its steps have as many completions as the others'.
POPULATION = 16


@dataclass(frozen=True, slots=True)
class Files:
    """Of rows, as JSONL. The first two in two forms: to be answered, and with the answer."""

    training: Path
    selection: Path
    answered_training: Path
    answered_selection: Path
    test: Path


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
    files = Files(*(directory / f"{name}.jsonl" for name in ("train", "select", "train-sft", "select-sft", "test")))
    directory.mkdir(parents=True, exist_ok=True)
    selection, training = rows[TEST_ROWS:][:SELECTION_ROWS], rows[TEST_ROWS + SELECTION_ROWS :]
    _write(files.training, training)
    _write(files.selection, selection)
    _write(files.answered_training, [_answered(row) for row in training])
    _write(files.answered_selection, [_answered(row) for row in selection])
    _write(files.test, rows[:TEST_ROWS])
    return files


def job_files(arm: str, files: Files) -> tuple[Path, Path]:
    """To train on, and to select by."""
    if ARMS[arm].method == "supervised":
        return files.answered_training, files.answered_selection
    return files.training, files.selection


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
        method[arm.method] = {"grader": dict(RANDOM_GRADER if arm.is_random else task.grader)}
    given = {setting: value for setting, value in {**ours, **arm.settings}.items() if value is not None}
    return {"method": method, "seed": seed, "suffix": f"{name}-{seed}", "extra_body": {"tinylora": given}}


def _answered(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [*row["messages"], {"role": "assistant", "content": row["answer"]}]}


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
