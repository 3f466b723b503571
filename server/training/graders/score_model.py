"""score_model: a judge model reads the sample and answers with a score, which is clamped to the grader's range.

The judge is whatever OpenAI-compatible server the injected client talks to, which may be this one. A system message and
a response_format ask it for a JSON object {"steps": [...], "result": number}, so that servers with structured outputs
cannot answer anything else.

Design decision: an answer without a number is an error of its own kind, and no number is searched for in the reasoning,
which is not the verdict.

Inputs are texts; images and audio are refused when the grader is defined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import openai
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from server.training.graders.grade import MAX_SCORE, Grade, GraderError, Sample, printable
from server.training.graders.spec import GraderSpec, Name
from server.training.graders.template import Template, TemplateText

_STEP = {"type": "object", "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}}}
_STRICT = {"required": ["description", "conclusion"], "additionalProperties": False}
_SCHEMA = {
    "type": "object",
    "properties": {"steps": {"type": "array", "items": _STEP | _STRICT}, "result": {"type": "number"}},
    "required": ["steps", "result"],
    "additionalProperties": False,
}
_RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "score", "schema": _SCHEMA, "strict": True}}


class TextPart(BaseModel):
    """A block of text in a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["input_text", "output_text", "text"]
    text: TemplateText


def _json_type(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "dict" if isinstance(value, dict | TextPart) else "str"


# Distinguished by their JSON type, so that an error is about the form that was meant.
Block = Annotated[Annotated[TemplateText, Tag("str")] | Annotated[TextPart, Tag("dict")], Discriminator(_json_type)]
Content = Annotated[
    Annotated[TemplateText, Tag("str")] | Annotated[TextPart, Tag("dict")] | Annotated[tuple[Block, ...], Tag("list")],
    Discriminator(_json_type),
]


class JudgeMessage(BaseModel):
    """A message to the judge. `content` is a text, a block of text, or a list of these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    type: Literal["message"] = "message"

    def texts(self) -> tuple[str, ...]:
        """Its texts, as templates."""
        parts = self.content if isinstance(self.content, tuple) else (self.content,)
        return tuple(part if isinstance(part, str) else part.text for part in parts)


class SamplingParams(BaseModel):
    """OpenAI's names, including its spelling max_completions_tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_completions_tokens: int | None = Field(None, ge=1, le=2**20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class ScoreModelSpec(GraderSpec):
    """OpenAI's ScoreModelGrader."""

    type: Literal["score_model"]
    name: Name = "score_model"
    model: str = Field(min_length=1, max_length=256)
    input: tuple[JudgeMessage, ...] = Field(min_length=1, max_length=64)
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingParams | None = None

    @field_validator("range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -MAX_SCORE <= value[0] < value[1] <= MAX_SCORE:
            raise ValueError(f"expected two numbers from {-MAX_SCORE:g} to {MAX_SCORE:g}, the lower one first")
        return value

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not any(text.strip() for text in self.templates()):
            raise ValueError("input has no text for the judge to read")
        return self

    def templates(self) -> tuple[str, ...]:
        return tuple(text for message in self.input for text in message.texts())


class ScoreModel:
    """Asks the judge once per completion. `extra_body`: request fields beyond OpenAI's parameters."""

    def __init__(
        self, spec: ScoreModelSpec, judge: openai.AsyncOpenAI, extra_body: Mapping[str, Any] | None = None
    ) -> None:
        self.name = spec.name
        self._model = spec.model
        self._judge = judge
        self._extra_body = extra_body
        self._messages = [(message.role, tuple(map(Template.parse, message.texts()))) for message in spec.input]
        self._low, self._high = spec.range
        params = spec.sampling_params.model_dump(exclude_none=True) if spec.sampling_params else {}
        if "max_completions_tokens" in params:
            params["max_completion_tokens"] = params.pop("max_completions_tokens")
        self._params: dict[str, Any] = params

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The judge's score within the range; `detail` has its answer. Raises GraderError when it gives none."""
        create: Any = self._judge.chat.completions.create
        try:
            completion = await create(
                model=self._model,
                messages=self._render(sample, item),
                response_format=_RESPONSE_FORMAT,
                extra_body=self._extra_body,
                **self._params,
            )
        except openai.OpenAIError as error:
            raise GraderError(
                "model_grader_server_error", f"the judge {self._model!r}: {printable(str(error))[:300]}"
            ) from error
        if not completion.choices:
            raise GraderError("model_grader_server_error", f"the judge {self._model!r} answered without a choice")
        message = completion.choices[0].message
        if message.refusal:
            raise GraderError("model_grader_refusal_error", f"the judge refused: {printable(message.refusal)[:300]}")
        answer = printable(message.content or "")
        score = min(max(_score(answer), self._low), self._high)
        tokens = {self._model: completion.usage.total_tokens} if completion.usage else {}
        return Grade(score, detail={"answer": answer[:2000], "model": printable(completion.model)}, tokens=tokens)

    def _render(self, sample: Sample, item: Mapping[str, Any]) -> list[dict[str, str]]:
        rule = (
            'Answer with a JSON object {"steps": [{"description": ..., "conclusion": ...}], "result": number}: your '
            f"reasoning, then the score as a number from {self._low:g} to {self._high:g}."
        )
        messages = []
        for role, texts in self._messages:
            content = "\n".join(text.render(sample, item) for text in texts)
            # Only OpenAI's own models know the role developer.
            messages.append({"role": "system" if role == "developer" else role, "content": content})
        # Chat templates take one system message, as the first.
        if messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{rule}"
            return messages
        return [{"role": "system", "content": rule}, *messages]


def _score(answer: str) -> float:
    # Judges without structured outputs often wrap the object in a code block.
    start, end = answer.find("{"), answer.rfind("}")
    text = answer[start : end + 1] if start >= 0 else answer
    try:
        parsed = json.loads(text)
        score = parsed.get("result") if isinstance(parsed, dict) else parsed
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            return float(score)
    except (ValueError, RecursionError, OverflowError):
        pass
    raise GraderError(
        "model_grader_parse_error", f'the judge answered {answer[:200]!r}, expected JSON with a number "result"'
    )
