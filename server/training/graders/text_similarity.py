"""text_similarity: how alike two texts are, from 0 to 1, by one of OpenAI's metrics.

fuzzy_match is rapidfuzz's `ratio` (normalized insertions and deletions), divided by 100, also where it is not computed
by rapidfuzz (common_subsequence.py). Two metrics are refused with
the reason: cosine needs an embedding model, meteor needs WordNet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from pydantic import field_validator

from server.training.graders import ngrams
from server.training.graders.common_subsequence import common_length
from server.training.graders.grade import Grade, GraderError, Sample
from server.training.graders.grader_thread import InThread
from server.training.graders.spec import GraderSpec, Name
from server.training.graders.template import Template, TemplateText, fill_in

# The time of some metrics grows with the product of the lengths.
MAX_CHARS = 50_000
# A millisecond's work.
MAX_ON_LOOP_CHARS = 2_000


def _fuzzy_match(candidate: str, reference: str) -> float:
    chars = len(candidate) + len(reference)
    return 2 * common_length(candidate, reference) / chars if chars else 1.0


_METRICS: Mapping[str, Callable[[str, str], float]] = MappingProxyType(
    {
        "fuzzy_match": _fuzzy_match,
        "bleu": ngrams.bleu,
        "gleu": ngrams.gleu,
        **{f"rouge_{n}": partial(ngrams.rouge_n, n=n) for n in range(1, 6)},
        "rouge_l": ngrams.rouge_l,
    }
)
_REFUSED = {"cosine": "cosine needs an embedding model", "meteor": "meteor needs WordNet's synonyms"}


class TextSimilaritySpec(GraderSpec):
    """OpenAI's TextSimilarityGrader."""

    type: Literal["text_similarity"]
    name: Name = "text_similarity"
    input: TemplateText
    reference: TemplateText
    evaluation_metric: Literal[
        "cosine",
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ]

    @field_validator("evaluation_metric")
    @classmethod
    def _is_computed_here(cls, metric: str) -> str:
        if metric in _REFUSED:
            raise ValueError(
                f"{_REFUSED[metric]}, which this server does not have; choose one of {', '.join(_METRICS)}"
            )
        return metric

    def templates(self) -> tuple[str, ...]:
        return self.input, self.reference

    def reads_sample(self) -> bool:
        """False also when a text is compared with itself."""
        return super().reads_sample() and Template.parse(self.input) != Template.parse(self.reference)


class TextSimilarity:
    """Computes a metric of two filled-in templates."""

    def __init__(self, spec: TextSimilaritySpec, in_thread: InThread = asyncio.to_thread) -> None:
        self.name, self._in_thread = spec.name, in_thread
        self._metric = _METRICS[spec.evaluation_metric]
        self._input = Template.parse(spec.input)
        self._reference = Template.parse(spec.reference)

    async def grade(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        """The metric of the input against the reference. GraderError for texts of more than MAX_CHARS characters."""
        given, reference = await fill_in((self._input, self._reference), sample, item, self._in_thread)
        if (longest := max(len(given), len(reference))) > MAX_CHARS:
            raise GraderError(
                "truncated_observation_error", f"a text has {longest} characters, expected at most {MAX_CHARS}"
            )
        if len(given) + len(reference) <= MAX_ON_LOOP_CHARS:
            return Grade(self._metric(given, reference))
        return Grade(await self._in_thread(self._metric, given, reference))
