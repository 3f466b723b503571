r"""math: is the completion's final answer mathematically equal to the reference? Scores 0 or 1. Not one of OpenAI's.

The answer is found by `math_extract` and compared by math-verify: 1/2, 0.5 and \frac{1}{2} are one answer. The
reference may be the answer alone, or a worked solution that ends in a box or in "####".

A completion without an answer, or with one that cannot be compared (too long, too slow), is wrong. A reference that is
empty or too long is an error of the row.

Design decision: it is shown as a string_check with `equality` "math", and taken in that form as well as under its own
type. OpenAI's client knows its own types only, and would warn of another one whenever it writes a job as JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.math_extract import ALL, Extractor, extract
from server.training.graders.math_pool import MathPool, MathPoolError, MathUnavailable
from server.training.graders.spec import GraderSpec, Name
from server.training.graders.template import Template, TemplateText, fill_in

MAX_ANSWER_CHARS = 1000
EQUALITY = "equality"
_SHOWN = {"operation": "eq", EQUALITY: "math"}


class MathSpec(GraderSpec):
    """The definition of a math grader. `extract`: the extractors to try, in order."""

    type: Literal["math"]
    name: Name = "math"
    input: TemplateText = "{{ sample.output_text }}"
    reference: TemplateText
    extract: tuple[Extractor, ...] = Field(ALL, min_length=1, max_length=len(ALL))

    @model_serializer(mode="wrap")
    def _as_string_check(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**dump(self), "type": "string_check", **_SHOWN}

    def templates(self) -> tuple[str, ...]:
        return self.input, self.reference

    def reads_sample(self) -> bool:
        """False also when a text is compared with itself."""
        return super().reads_sample() and Template.parse(self.input) != Template.parse(self.reference)


def math_of_string_check(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a MathSpec from those of a string_check with `equality`.

    Raises ValueError, whose text is the name of a field with a wrong value.
    """
    for name, expected in _SHOWN.items():
        if fields.get(name) != expected:
            raise ValueError(name)
    return {**{name: value for name, value in fields.items() if name not in _SHOWN}, "type": "math"}


class MathGrader:
    """Compares the final answers of completion and reference."""

    def __init__(
        self, spec: MathSpec, pool: MathPool, tenant: str = "", in_thread: InThread = asyncio.to_thread
    ) -> None:
        self.name = spec.name
        self._extractors = spec.extract
        self._input = Template.parse(spec.input)
        self._reference = Template.parse(spec.reference)
        self._pool, self._tenant, self._in_thread = pool, tenant, in_thread

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """1 when the answers are equal; `detail` has both, and the extractor."""
        solution, given = await fill_in((self._reference, self._input), sample, item, self._in_thread)
        found = extract(solution, ("boxed", "hashes"))
        reference = found.text if found else solution.strip()
        if not 0 < len(reference) <= MAX_ANSWER_CHARS:
            raise GraderError(
                "other_error",
                f"the reference answer has {len(reference)} characters, expected 1 to {MAX_ANSWER_CHARS}; give the "
                "answer alone, or a solution that ends in \\boxed{...} or ####",
            )
        answer = extract(given, self._extractors)
        if answer is None:
            return Grade(0.0, False, {"extractor": None, "reference": reference}, sought=self._extractors)
        detail = {"extractor": answer.extractor, "answer": answer.text[:MAX_ANSWER_CHARS], "reference": reference}
        if len(answer.text) > MAX_ANSWER_CHARS:
            return Grade(0.0, False, detail | {"not_compared": f"longer than {MAX_ANSWER_CHARS} characters"})
        try:
            passes = await self._pool.equal(reference, answer.text, self._tenant)
        except MathPoolError as error:
            return Grade(0.0, False, detail | {"not_compared": str(error)})
        except MathUnavailable as error:
            raise GraderError("math_grader_server_error", str(error)) from error
        return Grade(float(passes), passes, detail)
