"""string_check: is one text equal to the other, or does it contain it? Scores 0 or 1.

eq and ne compare exactly; like asks whether the input contains the reference, ilike the same without regard to case.
Every text contains an empty one, so a row with such a reference has no grade there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.spec import GraderSpec, Name
from server.training.graders.template import Template, TemplateText, fill_in


class StringCheckSpec(GraderSpec):
    """OpenAI's StringCheckGrader."""

    type: Literal["string_check"]
    name: Name = "string_check"
    input: TemplateText
    reference: TemplateText
    operation: Literal["eq", "ne", "like", "ilike"]

    def templates(self) -> tuple[str, ...]:
        return self.input, self.reference

    def reads_sample(self) -> bool:
        """False also when a text is compared with itself."""
        return super().reads_sample() and Template.parse(self.input) != Template.parse(self.reference)


class StringCheck:
    """Compares two filled-in templates."""

    def __init__(self, spec: StringCheckSpec, in_thread: InThread = asyncio.to_thread) -> None:
        self.name, self._in_thread = spec.name, in_thread
        self._operation = spec.operation
        self._input = Template.parse(spec.input)
        self._reference = Template.parse(spec.reference)

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """1 when the comparison holds, else 0. GraderError where it would hold for every text."""
        given, reference = await fill_in((self._input, self._reference), sample, item, self._in_thread)
        if not reference and self._operation in ("like", "ilike"):
            raise GraderError("other_error", f"the reference is empty, which every text contains ({self._operation})")
        match self._operation:
            case "eq":
                passes = given == reference
            case "ne":
                passes = given != reference
            case "like":
                passes = reference in given
            case "ilike":
                passes = reference.casefold() in given.casefold()
        return Grade(float(passes), passes)
