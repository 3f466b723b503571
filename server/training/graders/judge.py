"""A model that reads a sample and answers with a verdict: what score_model and label_model graders have in common.

The judge is whatever OpenAI-compatible server the injected client talks to, which may be this one. A system message and
a response_format ask it for a JSON object {"steps": [...], "result": ...}, so that servers with structured outputs
cannot answer anything else.

Design decision: an answer without a result is an error of its own kind, and none is searched for in the reasoning,
which is not the verdict. Where the server leaves it in the text, what counts is behind it.

Inputs are texts; images and audio are refused when the grader is defined.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import openai
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from server.training.graders.grade import GraderError, Sample, printable
from server.training.graders.grader_thread import InThread
from server.training.graders.spec import GraderSpec
from server.training.graders.template import Template, TemplateText, fill_in
from server.training.jobs.protocol import PRIORITY

_STEP = {"type": "object", "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}}}
_STRICT = {"required": ["description", "conclusion"], "additionalProperties": False}
_REASONING_BEGINS, _REASONING_ENDS = "<think>", "</think>"
_MAX_SEARCHED_CHARS = 20_000
_DECODER = json.JSONDecoder()


class TextPart(BaseModel):
    """A block of text in a message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["input_text", "output_text", "text"]
    text: TemplateText


def _json_type(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "dict" if isinstance(value, dict | TextPart) else "str"


# Of requests to a judge that is this server, where a grader does not say otherwise: behind everybody else's, and with
# the same verdict for the same answer. The limit leaves room for reasoning.
OWN_JUDGE: Mapping[str, Any] = MappingProxyType(
    {"temperature": 0.0, "seed": 0, "max_completion_tokens": 4096, "extra_body": {"priority": PRIORITY}}
)

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


class JudgeSpec(GraderSpec):
    """The fields of graders that ask a model."""

    model: str = Field(min_length=1, max_length=256)
    input: tuple[JudgeMessage, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not any(text.strip() for text in self.templates()):
            raise ValueError("input has no text for the judge to read")
        return self

    def templates(self) -> tuple[str, ...]:
        return tuple(text for message in self.input for text in message.texts())


@dataclass(frozen=True, slots=True)
class Answer:
    """result: of the JSON object, or the whole answer where it is other JSON. text: what the judge wrote, printable.
    tokens: used, by model."""

    result: object
    text: str
    model: str
    tokens: Mapping[str, int]

    @property
    def said(self) -> str:
        """The text without reasoning before it."""
        return _behind_reasoning(self.text)

    def no_verdict(self, expected: str) -> GraderError:
        """The error that the result is not `expected`."""
        return GraderError("model_grader_parse_error", f"the judge answered {self.text[:200]!r}, expected {expected}")


class Judge:
    """Asks a model once per completion. rule: a sentence on the result. result: its JSON schema. params: more arguments
    of the client's method, such as how to sample."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        spec: JudgeSpec,
        rule: str,
        result: Mapping[str, Any],
        params: Mapping[str, Any],
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self._client, self._in_thread = client, in_thread
        self._model = spec.model
        self._messages = [(message.role, tuple(map(Template.parse, message.texts()))) for message in spec.input]
        self._rule = rule
        self._request = {
            **params,
            "model": spec.model,
            "response_format": _response_format(spec.type, result),
        }

    async def ask(self, sample: Sample, item: Mapping[str, Any]) -> Answer:
        """The judge's answer. GraderError when it gives none, or none that is JSON."""
        create: Any = self._client.chat.completions.create
        messages = await self._filled_in(sample, item)
        try:
            completion = await create(messages=messages, **self._request)
        except openai.OpenAIError as error:
            raise GraderError(
                "model_grader_server_error", f"the judge {self._model!r}: {printable(str(error))[:300]}"
            ) from error
        if not completion.choices:
            raise GraderError("model_grader_server_error", f"the judge {self._model!r} answered without a choice")
        message = completion.choices[0].message
        if message.refusal:
            raise GraderError("model_grader_refusal_error", f"the judge refused: {printable(message.refusal)[:300]}")
        text = printable(message.content or "")
        tokens = {self._model: completion.usage.total_tokens} if completion.usage else {}
        return Answer(_result(text), text, printable(completion.model), tokens)

    async def _filled_in(self, sample: Sample, item: Mapping[str, Any]) -> list[dict[str, str]]:
        templates = [text for _, texts in self._messages for text in texts]
        filled_in = iter(await fill_in(templates, sample, item, self._in_thread))
        messages = []
        for role, texts in self._messages:
            content = "\n".join(islice(filled_in, len(texts)))
            # Only OpenAI's own models know the role developer.
            messages.append({"role": "system" if role == "developer" else role, "content": content})
        # Chat templates take one system message, as the first.
        if messages[0]["role"] == "system":
            messages[0]["content"] += f"\n\n{self._rule}"
            return messages
        return [{"role": "system", "content": self._rule}, *messages]


def answer_rule(result: str, meaning: str) -> str:
    """The sentence that asks for a `result`, a JSON type, with a `meaning`."""
    return (
        f'Answer with a JSON object {{"steps": [{{"description": ..., "conclusion": ...}}], "result": {result}}}: your '
        f"reasoning, then {meaning}."
    )


def _response_format(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": _STEP | _STRICT}, "result": dict(result)},
        "required": ["steps", "result"],
        "additionalProperties": False,
    }
    name = kind.removesuffix("_model")
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _behind_reasoning(text: str) -> str:
    if text.lstrip().startswith(("{", "```")):  # a verdict, which may quote the tag
        return text
    before, end, behind = text.partition(_REASONING_ENDS)
    return behind if end else "" if before.lstrip().startswith(_REASONING_BEGINS) else text


def _result(text: str) -> object:
    """None where there is none."""
    said = _behind_reasoning(text)
    # Judges without structured outputs often wrap the object in a code block.
    start, end = said.find("{"), said.rfind("}")
    try:
        parsed = json.loads(said[start : end + 1] if start >= 0 else said)
    except ValueError:
        return _last_result(said[-_MAX_SEARCHED_CHARS:])
    except RecursionError:
        return None
    return parsed.get("result") if isinstance(parsed, dict) else parsed


def _last_result(text: str) -> object:
    """The result of the last JSON object in `text` that has one, not counting those within others."""
    found, place = None, text.find("{")
    while place >= 0:
        try:
            parsed, end = _DECODER.raw_decode(text, place)
        except ValueError:
            end = place + 1
        except RecursionError:
            return None
        else:
            found = parsed.get("result", found)
        place = text.find("{", end)
    return found
