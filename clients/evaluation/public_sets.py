"""Public sets of mathematics as rows: by name, from the Hugging Face hub or from a copy of the set's repository.

They become rows as of any file, with the prompt that mathematics is usually asked with. `answer` is what the set gives:
the answer, or a worked solution that ends in one, from which a math grader takes it.

    name         problems  licence
    gsm8k-train      7473  MIT
    gsm8k            1319  MIT
    math-train       7500  MIT
    math-hard      ~ 8900  MIT; levels 3 to 5 of MATH, training and test, without the problems of math500
    math500           500  MIT
    minerva           272  of MIT OpenCourseWare: CC BY-NC-SA 4.0
    olympiad          674  Apache 2.0
    aime24             30  the problems are the Mathematical Association of America's
    amc23              40  the problems are the Mathematical Association of America's

The package `datasets` reads them, where it is installed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

STEP_BY_STEP = "\nPlease reason step by step, and put your final answer within \\boxed{}."
MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
MATH_LICENCE = "MIT, of its authors (https://github.com/hendrycks/math); the problems are of competitions"
MAA = "none stated; the problems are the Mathematical Association of America's (https://maa.org)"


class RowsError(Exception):
    """What was named has no rows that can be read. The message says which, and what was expected."""


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Where on the hub it is, and in which of its columns.

    configs: of the repository, one behind the other; None is its only one. levels: of a column `level`, those that are
    taken. without: the set whose questions are left out.
    """

    path: str
    split: str
    question: str
    answer: str
    licence: str
    configs: tuple[str | None, ...] = (None,)
    levels: frozenset[str] | None = None
    without: str | None = None


PUBLIC_SETS: Mapping[str, PublicSet] = MappingProxyType(
    {
        "gsm8k-train": PublicSet("openai/gsm8k", "train", "question", "answer", "MIT", ("main",)),
        "gsm8k": PublicSet("openai/gsm8k", "test", "question", "answer", "MIT", ("main",)),
        "math-train": PublicSet(
            "EleutherAI/hendrycks_math", "train", "problem", "solution", MATH_LICENCE, MATH_SUBJECTS
        ),
        "math-hard": PublicSet(
            "EleutherAI/hendrycks_math",
            "train+test",
            "problem",
            "solution",
            MATH_LICENCE,
            MATH_SUBJECTS,
            frozenset({"Level 3", "Level 4", "Level 5"}),
            "math500",
        ),
        "math500": PublicSet("HuggingFaceH4/MATH-500", "test", "problem", "answer", MATH_LICENCE),
        "minerva": PublicSet(
            "math-ai/minervamath", "test", "question", "answer", "of MIT OpenCourseWare: CC BY-NC-SA 4.0"
        ),
        "olympiad": PublicSet(
            "math-ai/olympiadbench", "test", "question", "final_answer", "Apache 2.0, of its authors (OpenBMB)"
        ),
        "aime24": PublicSet("HuggingFaceH4/aime_2024", "train", "problem", "answer", MAA),
        "amc23": PublicSet("math-ai/amc23", "test", "question", "answer", MAA),
    }
)


def public_rows(name: str, limit: int | None = None, copies: Path | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a set of PUBLIC_SETS, each as a line of a training file has it. RowsError.

    copies: a directory with copies of the sets' repositories, OWNER/NAME below it, to read instead of the hub.
    """
    known = PUBLIC_SETS[name]
    left_out = frozenset[str]()
    if known.without is not None:
        other = PUBLIC_SETS[known.without]
        left_out = frozenset(row[other.question].strip() for row in _read(known.without, other, copies))
    wanted = (
        row
        for row in _read(name, known, copies)
        if (known.levels is None or row["level"] in known.levels) and row[known.question].strip() not in left_out
    )
    return [_row(row[known.question], row[known.answer]) for row in islice(wanted, limit)]


@dataclass(frozen=True, slots=True)
class WrittenSet:
    """A file with `rows` rows of a public set. source: its repository on the hub."""

    name: str
    file: Path
    rows: int
    source: str
    licence: str

    @property
    def sentence(self) -> str:
        """What is in the file, for people."""
        return f"{self.name}: {self.rows} rows of {self.source}, licence: {self.licence}"


def write_set(name: str, directory: Path, limit: int | None = None, copies: Path | None = None) -> WrittenSet:
    """Write the rows of `public_rows` as NAME.jsonl into `directory`."""
    rows, known = public_rows(name, limit, copies), PUBLIC_SETS[name]
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return WrittenSet(name, file, len(rows), known.path, known.licence)


def _row(question: str, answer: Any) -> dict[str, Any]:
    # OlympiadBench has a list, of one answer where there is one.
    only = answer[0] if isinstance(answer, list) and answer else answer
    return {"messages": [{"role": "user", "content": question + STEP_BY_STEP}], "answer": str(only)}


def _read(name: str, known: PublicSet, copies: Path | None) -> Iterator[Mapping[str, Any]]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise RowsError(
            f"{name} is on the Hugging Face hub; to read it, install the package: pip install datasets"
        ) from None
    place = known.path if copies is None else str(copies / known.path)
    for config in known.configs:
        try:
            found = datasets.load_dataset(place, config, split=known.split)
        except Exception as error:  # The package raises what the network, the hub or the disk come up with.
            words = str(error).partition("\n")[0]
            where = f"from the Hugging Face hub as {place}" if copies is None else f"from {place}"
            raise RowsError(f"{name} could not be read {where}: {words or type(error).__name__}") from error
        columns = {known.question, known.answer} | ({"level"} if known.levels is not None else set())
        if missing := columns - set(found.column_names):
            raise RowsError(
                f"{place} has no column {', '.join(sorted(missing))} any more, only {', '.join(found.column_names)}"
            )
        yield from found
