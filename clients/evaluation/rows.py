"""What models are evaluated on: rows of a JSONL file, as for training, or a public set by its name.

    {"messages": [{"role": "user", "content": "What is 17 * 2?"}], "answer": "34"}

A public set becomes the same rows, with the prompt that mathematics is usually asked with, so nothing else needs to
know where a row is from.

Public sets come from the Hugging Face hub by the package `datasets`, where that is installed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

RESERVED_KEYS = ("messages", "tools")
STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}."


class RowsError(Exception):
    """What was named has no rows that can be read. The message says which, and what was expected."""


@dataclass(frozen=True, slots=True)
class Row:
    """`messages` end with the user's; `item` are the fields that a grader sees."""

    messages: Sequence[Mapping[str, Any]]
    item: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Where on the hub it is, and in which of its columns."""

    path: str
    config: str | None
    split: str
    question: str
    answer: str


PUBLIC_SETS: Mapping[str, PublicSet] = MappingProxyType(
    {
        "gsm8k": PublicSet("openai/gsm8k", "main", "test", "question", "answer"),
        "math500": PublicSet("HuggingFaceH4/MATH-500", None, "test", "problem", "answer"),
        "aime24": PublicSet("HuggingFaceH4/aime_2024", None, "train", "problem", "answer"),
        "amc23": PublicSet("math-ai/amc23", None, "test", "question", "answer"),
        "minerva": PublicSet("math-ai/minervamath", None, "test", "question", "answer"),
        "olympiad": PublicSet("math-ai/olympiadbench", None, "test", "question", "final_answer"),
    }
)


def load_rows(data: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of the file, or public set, `data`. RowsError when it has none."""
    if Path(data).is_file():
        rows = list(_read(Path(data), limit))
    elif data in PUBLIC_SETS:
        rows = _download(data, limit)
    else:
        raise RowsError(f"there is no file {data}, and no public set of that name; those are {', '.join(PUBLIC_SETS)}")
    if not rows:
        raise RowsError(f"{data} has no rows, expected one JSON object per line")
    return rows


def _read(path: Path, limit: int | None) -> Iterable[Row]:
    count = 0
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if count == limit:
                return
            if line.strip():
                count += 1
                yield _row(line, f"{path}, line {number}")


def _row(line: str, where: str) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RowsError(f"{where}: it is not JSON: {error}") from error
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise RowsError(
            f'{where}: expected an object with a list of messages, {{"messages": [{{"role": "user", ...}}], ...}}'
        )
    if messages[-1].get("role") != "user":
        raise RowsError(f"{where}: the last message is the {messages[-1].get('role')}'s, expected the user's")
    item = {key: field for key, field in value.items() if key not in RESERVED_KEYS}
    return Row(messages, item, value.get("tools") or ())


def _download(name: str, limit: int | None) -> list[Row]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise RowsError(
            f"{name} is on the Hugging Face hub; to read it, install the package: pip install datasets"
        ) from None
    known = PUBLIC_SETS[name]
    try:
        found = datasets.load_dataset(known.path, known.config, split=known.split)
    except Exception as error:  # The package raises what the network, the hub or the disk come up with.
        words = str(error).partition("\n")[0]
        raise RowsError(
            f"{name} could not be read from the Hugging Face hub as {known.path}: {words or type(error).__name__}"
        ) from error
    if missing := {known.question, known.answer} - set(found.column_names):
        raise RowsError(
            f"{known.path} has no column {', '.join(sorted(missing))} any more, only {', '.join(found.column_names)}"
        )
    chosen = found if limit is None else found.select(range(min(limit, len(found))))
    return [_of_public(row[known.question], row[known.answer]) for row in chosen]


def _of_public(question: str, answer: Any) -> Row:
    only = answer[0] if isinstance(answer, list) and answer else answer
    return Row([{"role": "user", "content": question + STEP_BY_STEP}], {"answer": str(only)})
