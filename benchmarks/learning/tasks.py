"""Small tasks with answers that a program checks: sums of our own, and tasks that reasoning-gym makes (Apache-2.0).

Each is of one kind and small enough that a model of 135 million parameters is right now and then: without any right
answer there is nothing to reinforce. Rows come from the task's own generator with a fixed seed, each question once.

The tasks in KEPT_OUT are never used to choose a default; what the defaults gain is read from them.

reasoning-gym is not among the project's requirements, because it brings plotting libraries of 140 MB with it: `make
reasoning-gym` installs it into a directory of its own.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clients.examples.make_task import GRADER, sums

LAST_NUMBER: Mapping[str, Any] = GRADER
# Where a person would look for a word: anywhere in a short answer, in whatever case.
WORD: Mapping[str, Any] = MappingProxyType(
    {
        "type": "string_check",
        "name": "word",
        "operation": "ilike",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.answer }}",
    }
)
REASONING_GYM = Path(sys.prefix) / "reasoning-gym"
SEED = 5
# Questions that come again are left out, so more are asked for than are wanted.
TRIES = 20


@dataclass(frozen=True, slots=True)
class Task:
    """dataset: of reasoning-gym, None for our sums. options: of the dataset. max_tokens: of an answer.

    answer_form: a regular expression of all that an answer may be, right or wrong.
    """

    dataset: str | None
    grader: Mapping[str, Any] = field(default_factory=lambda: LAST_NUMBER)
    options: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 16
    answer_form: str = r"-?\d+"

    def answer_in(self, completion: str) -> str | None:
        """The last part of `completion` that has the form of an answer, and is no part of a longer number."""
        found = re.findall(rf"(?<!\w)(?<!\d[.,])(?:{self.answer_form})(?!\w|[.,]\d)", completion)
        return found[-1] if found else None

    def rows(self, count: int) -> list[dict[str, Any]]:
        """`count` rows, or all that there are: {"messages": [...], "answer": ...}. SystemExit without reasoning-gym."""
        if self.dataset is None:
            return sums(SEED)[:count]
        made = _reasoning_gym().create_dataset(self.dataset, size=TRIES * count, seed=SEED, **self.options)
        answers: dict[str, str] = {}
        for index in range(TRIES * count):
            answers.setdefault(made[index]["question"].strip(), str(made[index]["answer"]))
            if len(answers) == count:
                break
        return [
            {"messages": [{"role": "user", "content": question}], "answer": answer}
            for question, answer in answers.items()
        ]


def _reasoning_gym() -> Any:
    if str(REASONING_GYM) not in sys.path:
        sys.path.append(str(REASONING_GYM))
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise SystemExit(f"{error}: `make reasoning-gym` installs what the tasks of reasoning-gym need") from None


_ONE_DIGIT = {"min_digits": 1, "max_digits": 1}
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "sums": Task(None),
        "differences": Task("chain_sum", options={"min_terms": 2, "max_terms": 2, **_ONE_DIGIT}),
        "products": Task("products", options={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
        "letters": Task("letter_counting", options={"min_words": 1, "max_words": 2}),
        "divisors": Task("gcd", options={"min_value": 1, "max_value": 40}),
        "syllogisms": Task("syllogism", WORD, answer_form="[Yy]es|[Nn]o"),
        "multiples": Task("lcm", options={"min_value": 1, "max_value": 30}),
        "needles": Task(
            "needle_haystack", WORD, {"min_num_statements": 3, "max_num_statements": 5}, answer_form=r"\w+(?:-\w+)*"
        ),
    }
)
KEPT_OUT = frozenset({"multiples", "needles"})
