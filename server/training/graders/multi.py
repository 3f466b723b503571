"""multi: several graders and a formula over their scores.

Design decision: when a part fails, the whole grade fails, instead of the part counting as 0. The formula may subtract
or invert a score, so a failed part could become a reward.

In JSON `graders` is a map of name to grader, as OpenAI's service takes it. OpenAI's Python package declares a single
grader there, which is therefore taken too, under its own name.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from server.training.graders.formula import FUNCTION_NAMES, MAX_CHARS, Formula, FormulaError
from server.training.graders.gather import gather_or_cancel
from server.training.graders.grade import Grade, Grader, GraderError, Sample, check_score
from server.training.graders.spec import GraderSpec, Name

MAX_GRADERS = 16
MAX_NAME_CHARS = 48
# A job reports train_<name> and valid_<name> of every part beside metrics of its own (protocol.Metrics).
# New jobs cannot have such parts (build.py); stored ones may, from when a name was not taken yet.
TAKEN_NAMES = frozenset(
    {"reward_mean", "reward_error", "reward_gain", "reward_gain_error", "loss", "loss_error", "mean_token_accuracy"}
)
_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME_CHARS - 1}}}")


class MultiSpec(GraderSpec):
    """OpenAI's MultiGrader. Its parts have already been parsed (by build.py)."""

    type: Literal["multi"]
    name: Name = "multi"
    graders: dict[str, SerializeAsAny[GraderSpec]] = Field(min_length=1, max_length=MAX_GRADERS)
    calculate_output: str = Field(min_length=1, max_length=MAX_CHARS)

    @field_validator("graders")
    @classmethod
    def _are_parts(cls, graders: dict[str, GraderSpec]) -> dict[str, GraderSpec]:
        for name, part in graders.items():
            if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in FUNCTION_NAMES:
                raise ValueError(
                    f"the grader {name[:80]!r} cannot be named in a formula; use at most {MAX_NAME_CHARS} of the "
                    "letters A to Z, digits and _, a letter first, and not the name of a function or a word of Python"
                )
            if not part.reads_sample() and not part.item_variables():
                raise ValueError(
                    f"the grader {name!r} has the same score for every sample of every row; use "
                    "{{ sample.output_text }} in its input"
                )
        return graders

    @field_validator("calculate_output")
    @classmethod
    def _is_formula(cls, formula: str, info: ValidationInfo) -> str:
        if "graders" in info.data:
            Formula.parse(formula, info.data["graders"])
        return formula

    def parts(self) -> tuple[GraderSpec, ...]:
        return tuple(self.graders.values())

    def templates(self) -> tuple[str, ...]:
        return tuple(text for part in self.graders.values() for text in part.templates())

    def reads_sample(self) -> bool:
        """Whether a part that the formula names reads the sample."""
        named = Formula.parse(self.calculate_output, self.graders).names
        return any(part.reads_sample() for name, part in self.graders.items() if name in named)


class Multi:
    """Grades with every part at once, then computes the formula."""

    def __init__(self, spec: MultiSpec, parts: Mapping[str, Grader]) -> None:
        self.name = spec.name
        self._parts = parts
        self._formula = Formula.parse(spec.calculate_output, parts)

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The value of the formula; `parts` has the score of each part. Raises GraderError when a part does."""
        results = await gather_or_cancel(self._grade_part(name, sample, item) for name in self._parts)
        grades = dict(zip(self._parts, results, strict=True))
        scores = {name: grade.score for name, grade in grades.items()}
        try:
            score = self._formula.evaluate(scores)
        except FormulaError as error:
            raise GraderError("formula_parse_error", str(error)) from None
        tokens: Counter[str] = Counter()
        for grade in grades.values():
            tokens.update(grade.tokens)
        detail = {name: dict(grade.detail) for name, grade in grades.items() if grade.detail}
        reading = [grade for grade in grades.values() if "extractor" in grade.detail]
        forms = dict.fromkeys(form for grade in reading for form in grade.sought)
        # Where one part finds an answer, there is one.
        sought = tuple(forms) if all(grade.sought for grade in reading) else ()
        return Grade(score, detail=detail, parts=scores, tokens=dict(tokens), sought=sought)

    async def _grade_part(self, name: str, sample: Sample, item: Mapping[str, Any]) -> Grade:
        try:
            grade = await self._parts[name].grade(sample, item)
            check_score(grade.score)
            return grade
        except GraderError as error:
            raise GraderError(error.kind, f"its part {name!r}: {error.message}") from error
