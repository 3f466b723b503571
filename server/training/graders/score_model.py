"""score_model: a judge model reads the sample and answers with a score within the grader's range.

Design decision: a score outside of the range is no verdict. Moved to its end, the 8 of a judge that thinks in tenths
would be as good as a 1. Nor does the response_format bound it: the judge would be made to write another number.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import openai
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator

from server.training.graders.grade import MAX_SCORE, Grade, GraderError, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.judge import Answer, Judge, JudgeSpec, answer_rule
from server.training.graders.spec import Name

_MAX_SHOWN = 2000
# By so much a score may be outside of the range, by rounding.
_ROUNDING = 1e-6


class SamplingParams(BaseModel):
    """OpenAI's names, including its spelling max_completions_tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: StrictFloat | None = Field(None, ge=0, le=2)
    top_p: StrictFloat | None = Field(None, gt=0, le=1)
    seed: StrictInt | None = Field(None, ge=-(2**63), lt=2**63)
    max_completions_tokens: StrictInt | None = Field(None, ge=1, le=2**20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    def of_request(self) -> dict[str, Any]:
        """As chat completions name them."""
        params = self.model_dump(exclude_none=True)
        if "max_completions_tokens" in params:
            params["max_completion_tokens"] = params.pop("max_completions_tokens")
        return params


class ScoreModelSpec(JudgeSpec):
    """OpenAI's ScoreModelGrader."""

    type: Literal["score_model"]
    name: Name = "score_model"
    range: tuple[StrictFloat, StrictFloat] = (0.0, 1.0)
    sampling_params: SamplingParams | None = None

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -MAX_SCORE <= value[0] < value[1] <= MAX_SCORE:
            raise ValueError(f"expected two numbers from {-MAX_SCORE:g} to {MAX_SCORE:g}, the lower one first")
        return value


class ScoreModel:
    """Asks the judge once per completion. params: arguments of its client that the grader may replace."""

    def __init__(
        self,
        spec: ScoreModelSpec,
        judge: openai.AsyncOpenAI,
        params: Mapping[str, Any] = MappingProxyType({}),
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self.name = spec.name
        self._low, self._high = spec.range
        rule = answer_rule("number", f"the score as a number from {self._low:g} to {self._high:g}")
        own = spec.sampling_params.of_request() if spec.sampling_params else {}
        self._judge = Judge(judge, spec, rule, {"type": "number"}, {**params, **own}, in_thread)

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The judge's score; `detail` has its answer. Raises GraderError when it gives none within the range."""
        answer = await self._judge.ask(sample, item)
        said = _score(answer)
        score = min(max(said, self._low), self._high)
        if abs(score - said) > _ROUNDING:
            raise GraderError(
                "model_grader_parse_error",
                f"the judge gave the score {said:.10g}, and the range is {self._low:.10g} to {self._high:.10g}; say in "
                "input what each score means, or set range to the scores that the judge gives",
            )
        return Grade(score, detail={"answer": answer.text[:_MAX_SHOWN], "model": answer.model}, tokens=answer.tokens)


def _score(answer: Answer) -> float:
    score = answer.result
    try:
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            return float(score)
    except OverflowError:
        pass
    raise answer.no_verdict('JSON with a number "result"')
