"""What learning.py trains on and how: the rows in three parts, and a training job for every arm.

The rows that choose the best checkpoint are not the rows that measure. A job is given two parts, to
train on and to select by; the test rows never reach it. The parts are the same for every arm and seed, so that gains
can be compared row by row; a job's own seed decides the order of its rows and what is sampled.

The arms: `grpo`, rewards from a grader of the answers. `random`, the same job with rewards that are drawn whatever the
answer, so what it gains is chance or what sampling alone does. `sft`, the same numbers by imitation of the answers.
`grpo-840`, rewards again, but every number of every module's R is free (4 numbers x 210 modules, LoRA-XS of rank 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.vector.recipe import Recipe
from clients.examples.make_task import GRADER, make_task
from clients.examples.train import MAX_TOKENS

SPLIT_SEED = 0
TEST_ROWS, SELECTION_ROWS = 64, 32
# About what the base model's rewards are at first, and so about as many groups with different rewards.
RANDOM_REWARD = 0.4
RANDOM_GRADER: Mapping[str, Any] = MappingProxyType(
    {
        "type": "python",
        "name": "random",
        "source": f"import random\n\n\ndef grade(sample, item):\n    return float(random.random() < {RANDOM_REWARD})\n",
    }
)
# Of SmolLM2-135M: 30 layers of 7 linear modules.
UNTIED = Recipe(rank=2, u=4, groups=210, projection="elementary")
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "grpo": Recipe(),
        "random": Recipe(),
        "sft": Recipe(),
        "grpo-840": UNTIED,
        "cma-es": Recipe(),
        "openai-es": Recipe(),
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
    """Of all jobs. supervised_batch_size: rows in a step of `sft`; the others have batch_size * group_size samples.

    sigma: of arms without gradients; 0: as the server measures it.
    """

    steps: int = 20
    batch_size: int = 6
    group_size: int = 8
    learning_rate: float = 4e-3
    temperature: float = 0.6
    eval_interval: int = 10
    selection_samples: int = 2
    supervised_batch_size: int = 16
    sigma: float = 0.0


def make_files(directory: Path) -> Files:
    """Write the three parts: the first rows that make_task keeps apart are the test, the next ones select."""
    training, kept = make_task(directory / "whole", TEST_ROWS + SELECTION_ROWS, SPLIT_SEED)
    lines = kept.read_text().splitlines()
    files = Files(*(directory / f"{name}.jsonl" for name in ("train", "select", "train-sft", "select-sft", "test")))
    _write(files.training, training.read_text().splitlines())
    _write(files.selection, lines[TEST_ROWS:])
    _write(files.answered_training, map(_answered, files.training.read_text().splitlines()))
    _write(files.answered_selection, map(_answered, lines[TEST_ROWS:]))
    _write(files.test, lines[:TEST_ROWS])
    return files


def job_files(arm: str, files: Files) -> tuple[Path, Path]:
    """To train on, and to select by."""
    if arm == "sft":
        return files.answered_training, files.answered_selection
    return files.training, files.selection


def job_settings(arm: str, seed: int, options: Options) -> dict[str, Any]:
    """What a job of `arm` is created with, besides model and files: arguments of the official client."""
    ours: dict[str, Any] = {
        "recipe": RECIPES[arm].to_dict(),
        "max_steps": options.steps,
        "epochs": 1000,
        "eval_interval": options.eval_interval,
    }
    rewarded = {
        "temperature": options.temperature,
        "max_completion_tokens": MAX_TOKENS,
        "eval_samples": options.selection_samples,
    }
    grader = dict(RANDOM_GRADER if arm == "random" else GRADER)
    method: dict[str, Any]
    if arm == "sft":
        method = {"type": "supervised"}
        ours |= {"learning_rate": options.learning_rate, "batch_size": options.supervised_batch_size}
    elif arm in ("cma-es", "openai-es"):
        method = {"type": "evolution", "evolution": {"grader": grader}}
        rows = options.batch_size * options.group_size // POPULATION
        ours |= {**rewarded, "algorithm": arm.replace("-", "_"), "population_size": POPULATION, "batch_size": rows}
        ours |= {"sigma": options.sigma} if options.sigma else {}
    else:
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        ours |= {**rewarded, "learning_rate": options.learning_rate}
        ours |= {"batch_size": options.batch_size, "group_size": options.group_size}
    return {"method": method, "seed": seed, "suffix": f"{arm}-{seed}", "extra_body": {"tinylora": ours}}


def _answered(line: str) -> str:
    row = json.loads(line)
    return json.dumps({"messages": [*row["messages"], {"role": "assistant", "content": row["answer"]}]})


def _write(file: Path, lines: Any) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))
