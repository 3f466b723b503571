"""score_model: a judge model reads the sample and answers with a score, which is clamped to the grader's range."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import openai
from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator

from server.training.graders.grade import MAX_SCORE, Grade, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.judge import Answer, Judge, JudgeSpec, answer_rule
from server.training.graders.spec import Name

_MAX_SHOWN = 2000


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
        """The judge's score within the range; `detail` has its answer. Raises GraderError when it gives none."""
        answer = await self._judge.ask(sample, item)
        score = min(max(_score(answer), self._low), self._high)
        return Grade(score, detail={"answer": answer.text[:_MAX_SHOWN], "model": answer.model}, tokens=answer.tokens)


def _score(answer: Answer) -> float:
    score = answer.result
    try:
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            return float(score)
    except OverflowError:
        pass
    raise answer.no_verdict('JSON with a number "result"')
