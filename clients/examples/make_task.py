"""Makes a task to train on: small sums, as JSONL files for training and validation.

    python -m clients.examples.make_task data/task

A program can check the answers, a small model knows some of them, so there is something to learn from, and no sum is in
both files, so what is measured was not trained on.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Annotated, Any

import typer

QUESTION = "What is {} + {}? Answer with the number only."
# The last number in the answer counts, as a person would read it.
GRADER = {"type": "math", "name": "sum", "reference": "{{ item.answer }}", "extract": ["last_number"]}
LARGEST = 15


def make_task(directory: Path, validation: int = 64, seed: int = 0) -> tuple[Path, Path]:
    """Write train.jsonl and validation.jsonl: all sums of two numbers from 1 to 15, each in one of the two."""
    rows = sums(seed)
    directory.mkdir(parents=True, exist_ok=True)
    files = directory / "train.jsonl", directory / "validation.jsonl"
    for file, part in zip(files, (rows[validation:], rows[:validation]), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in part))
    return files


def sums(seed: int = 0) -> list[dict[str, Any]]:
    """A row for every sum, in an order of the seed."""
    pairs = [(first, second) for first in range(1, LARGEST + 1) for second in range(1, LARGEST + 1)]
    random.Random(seed).shuffle(pairs)
    return [
        {"messages": [{"role": "user", "content": QUESTION.format(*pair)}], "answer": str(sum(pair))} for pair in pairs
    ]


def main(
    directory: Annotated[Path, typer.Argument(help="Where to")],
    validation: Annotated[int, typer.Option(min=1, max=LARGEST**2 - 1, help="Rows to validate on")] = 64,
    seed: int = 0,
) -> None:
    """Make a task of small sums."""
    for file in make_task(directory, validation, seed):
        print(file)


if __name__ == "__main__":
    typer.run(main)
