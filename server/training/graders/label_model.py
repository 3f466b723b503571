"""label_model: a judge model reads the sample and chooses one of some labels, of which some pass. Scores 0 or 1."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import openai
from pydantic import Field, ValidationInfo, field_validator

from server.training.graders.grade import Grade, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.judge import Judge, JudgeSpec, answer_rule
from server.training.graders.spec import Name

_MAX_SHOWN = 2000
Label = Annotated[str, Field(min_length=1, max_length=256)]


class LabelModelSpec(JudgeSpec):
    """OpenAI's LabelModelGrader."""

    type: Literal["label_model"]
    name: Name = "label_model"
    labels: tuple[Label, ...] = Field(min_length=2, max_length=256)
    passing_labels: tuple[Label, ...] = Field(min_length=1, max_length=256)

    @field_validator("labels")
    @classmethod
    def _differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("a label stands in it twice")
        return labels

    @field_validator("passing_labels")
    @classmethod
    def _are_some_of_the_labels(cls, passing: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        labels = set(info.data.get("labels", passing))
        if unknown := [label for label in passing if label not in labels]:
            raise ValueError(f"{unknown[0]!r} is not one of labels")
        if labels == set(passing) and "labels" in info.data:
            raise ValueError("all labels pass, so every sample would get the same score")
        return passing


class LabelModel:
    """Asks the judge once per completion. params: arguments of its client."""

    def __init__(
        self,
        spec: LabelModelSpec,
        judge: openai.AsyncOpenAI,
        params: Mapping[str, Any] = MappingProxyType({}),
        in_thread: InThread = asyncio.to_thread,
    ) -> None:
        self.name = spec.name
        self._labels = {_plain(label): label for label in reversed(spec.labels)} | {one: one for one in spec.labels}
        self._passing = frozenset(spec.passing_labels)
        self._listed = ", ".join(repr(label) for label in spec.labels)
        rule = answer_rule("string", f"the one of these labels that fits, as it is written here: {self._listed}")
        schema = {"type": "string", "enum": list(spec.labels)}
        self._judge = Judge(judge, spec, rule, schema, params, in_thread)

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """1 when the label passes, else 0; `detail` has the label. GraderError when the judge gives none of them."""
        answer = await self._judge.ask(sample, item)
        # Judges without structured outputs may write the label alone, and do not mind case and blanks.
        said = answer.result if isinstance(answer.result, str) else answer.said
        label = self._labels.get(said, self._labels.get(_plain(said)))
        if label is None:
            raise answer.no_verdict(f'JSON with a "result" that is one of {self._listed:.300}')
        passes = label in self._passing
        detail = {"label": label, "answer": answer.text[:_MAX_SHOWN], "model": answer.model}
        return Grade(float(passes), passes, detail=detail, tokens=answer.tokens)


def _plain(label: str) -> str:
    return label.strip().casefold()
