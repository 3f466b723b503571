"""What a grader is given (a sample, a row's fields), what it answers, and how it fails.

A grader that cannot grade raises GraderError, and `grade_row` makes of it a Grade that scores 0, as OpenAI's do, and
names the grader and the row; what it is worth in a job is in server/training/worker/grading.py. A bad completion or a
bad row is data and never ends a training job. The kinds of graders are the modules beside this one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import structlog

# OpenAI's names for errors in the answer of graders/run, and those of endpoints and environments, which it has not.
ErrorKind = Literal[
    "endpoint_grader_parse_error",
    "endpoint_grader_server_error",
    "environment_limit_error",
    "environment_parse_error",
    "environment_server_error",
    "formula_parse_error",
    "invalid_variable_error",
    "math_grader_server_error",
    "model_grader_parse_error",
    "model_grader_refusal_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
]
# The grader's own failures, whatever the sample is.
OUTAGES: frozenset[ErrorKind] = frozenset(
    {
        "endpoint_grader_parse_error",
        "endpoint_grader_server_error",
        "environment_parse_error",
        "environment_server_error",
        "math_grader_server_error",
        "model_grader_parse_error",
        "model_grader_refusal_error",
        "model_grader_server_error",
        "python_grader_server_error",
    }
)

# Larger scores could become infinite in the sums of a step.
MAX_SCORE = 1e9

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion. `fields` is the `sample` namespace of templates and python graders:

    output_text: the text. output_json: the text parsed, absent when it is not JSON. output_tools: the tool calls.
    choices: a list of one choice, as in a chat completion. messages: of a conversation all, the row's first and this
    one last; else this one. environment: how the conversation ended, `done` and `reward`; absent without one.
    """

    fields: Mapping[str, Any]

    @classmethod
    def of_text(cls, text: str, tools: tuple[Mapping[str, Any], ...] = (), *, is_cut: bool = False) -> Sample:
        """The sample whose text is `text`, with tool calls in OpenAI's shape. is_cut: by the limit of tokens."""
        message = {"role": "assistant", "content": text, **({"tool_calls": list(tools)} if tools else {})}
        return cls.of_conversation([message], is_cut=is_cut)

    @classmethod
    def of_conversation(
        cls,
        messages: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any] | None = None,
        *,
        is_cut: bool = False,
    ) -> Sample:
        """The sample that is the last of `messages`, in OpenAI's shape. is_cut: by the limit of tokens."""
        message = messages[-1]
        text, tools = message["content"] or "", list(message.get("tool_calls") or ())
        reason = "length" if is_cut else "tool_calls" if tools else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        fields: dict[str, Any] = {"output_text": text, "output_tools": tools, "choices": [choice]}
        fields["messages"] = list(messages)
        if environment is not None:
            fields["environment"] = dict(environment)
        with contextlib.suppress(ValueError, RecursionError):
            fields["output_json"] = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        return cls(fields)

    @property
    def text(self) -> str:
        """The completion's text."""
        text: str = self.fields["output_text"]
        return text


class GraderError(Exception):
    """The grader could not grade. `kind` is OpenAI's name for the error; `message` is for people."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message = message

    @property
    def is_outage(self) -> bool:
        """Whether the grader itself failed, so that nothing is known of the sample."""
        return self.kind in OUTAGES


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of one completion.

    score: the reward, finite. passes: right or wrong; None for graders that do not decide that.
    detail: how the score came about, as JSON. parts: the scores inside a multi grader, by name.
    tokens: used by judges, by model. sought: forms of an answer that the grader looked for, where the sample has none
    of them. error: why there is no score; the score is then 0, in a job no more than the lowest beside it.
    """

    score: float
    passes: bool | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    sought: tuple[str, ...] = ()
    error: GraderError | None = None


class Grader(Protocol):
    """Grades one completion. Raises GraderError when it cannot."""

    @property
    def name(self) -> str:
        """The name that its owner gave it."""

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The grade of `sample`, a completion for the row whose fields are `item`."""


async def grade_row(grader: Grader, sample: Sample, item: Mapping[str, Any], row: int | None = None) -> Grade:
    """As `grader.grade`, but a failure is a Grade with an error. `row`: line of the data file, for the message."""
    try:
        grade = await grader.grade(sample, item)
        check_score(grade.score)
        return grade
    except GraderError as error:
        failure = error
    except Exception as error:  # Graders run on whatever a model wrote; an unexpected error costs one reward.
        log.exception("grader_failed", grader=grader.name, row=row)
        failure = GraderError("other_error", f"{type(error).__name__}: {str(error)[:300]}")
    where = f"grader {grader.name!r}" if row is None else f"grader {grader.name!r}, row {row}"
    return Grade(0.0, error=GraderError(failure.kind, f"{where}: {failure.message}"))


def check_score(score: float) -> float:
    """`score` itself. Raises GraderError for NaN, and beyond -MAX_SCORE .. MAX_SCORE."""
    if not abs(score) <= MAX_SCORE:  # NaN neither
        raise GraderError(
            "other_error", f"the score is {score}, expected a number from {-MAX_SCORE:g} to {MAX_SCORE:g}"
        )
    return score


def printable(text: str) -> str:
    """`text` with halves of surrogate pairs escaped, so that UTF-8 can encode it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is beyond what a number can be")
    return value
