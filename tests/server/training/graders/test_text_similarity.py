"""Metrics against rapidfuzz, and against NLTK 3.10.4 and rouge-score 0.1.2, which computed similarity_reference.json.

There BLEU is sentence_bleu(SmoothingFunction(epsilon=0.1).method1) and GLEU sentence_gleu over words and punctuation
marks, ROUGE the F-measure of RougeScorer without stemming.
"""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from server.training.graders import ngrams
from server.training.graders.common_subsequence import SHORT, common_length
from server.training.graders.grade import GraderError, Sample
from server.training.graders.text_similarity import MAX_CHARS, TextSimilarity, TextSimilaritySpec

REFERENCE = json.loads(Path(__file__).with_name("similarity_reference.json").read_text())
METRICS = tuple(REFERENCE[0]["scores"])


def grader(metric: str) -> TextSimilarity:
    return TextSimilarity(
        TextSimilaritySpec.model_validate(
            {
                "type": "text_similarity",
                "input": "{{sample.output_text}}",
                "reference": "{{item.reference}}",
                "evaluation_metric": metric,
            }
        )
    )


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: row["candidate"][:20] or "empty")
async def test_scores_are_those_of_nltk_and_rouge_score(row: dict[str, Any]) -> None:
    sample = Sample.of_text(row["candidate"])
    scores = {metric: (await grader(metric).grade(sample, row)).score for metric in METRICS}

    assert scores == pytest.approx(row["scores"], abs=1e-9)


@given(st.text(), st.text())
async def test_fuzzy_match_is_rapidfuzz_ratio_in_0_to_1(candidate: str, reference: str) -> None:
    grade = await grader("fuzzy_match").grade(Sample.of_text(candidate), {"reference": reference})

    assert grade.score == pytest.approx(fuzz.ratio(candidate, reference) / 100, abs=1e-12)
    assert grade.passes is None


def long_text(characters: int, alphabet: int, seed: int) -> str:
    draw = random.Random(seed)
    return "".join(chr(0x4E00 + draw.randrange(alphabet)) for _ in range(characters))


@pytest.mark.parametrize(
    ("lengths", "alphabet"), [((SHORT + 1, 2_500), 2), ((3_000, 10), 5), ((4_000, 3_000), 300), ((3_000, 3_000), 9_000)]
)
async def test_long_texts_score_as_by_rapidfuzz(lengths: tuple[int, int], alphabet: int) -> None:
    one, other = (long_text(length, alphabet, seed) for seed, length in enumerate(lengths))
    grade = await grader("fuzzy_match").grade(Sample.of_text(one), {"reference": other})
    assert grade.score == pytest.approx(fuzz.ratio(one, other) / 100, abs=1e-12)
    assert common_length(list(one), list(other)) == LCSseq.similarity(one, other)


TEXTS = st.text(alphabet="abc .,!", max_size=40)


@given(TEXTS, TEXTS)
def test_every_metric_stays_within_0_and_1(candidate: str, reference: str) -> None:
    scores = [
        ngrams.bleu(candidate, reference),
        ngrams.gleu(candidate, reference),
        ngrams.rouge_l(candidate, reference),
    ]
    scores += [ngrams.rouge_n(candidate, reference, n) for n in range(1, 6)]

    assert all(0 <= score <= 1 + 1e-12 for score in scores)


@given(TEXTS, TEXTS)
def test_rouge_and_gleu_are_symmetric(one: str, other: str) -> None:
    assert ngrams.gleu(one, other) == ngrams.gleu(other, one)
    assert ngrams.rouge_l(one, other) == ngrams.rouge_l(other, one)
    assert ngrams.rouge_n(one, other, 2) == ngrams.rouge_n(other, one, 2)


@pytest.mark.parametrize(("metric", "reason"), [("cosine", "embedding model"), ("meteor", "WordNet")])
def test_what_cannot_be_computed_soundly_is_refused_with_the_reason(metric: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        grader(metric)


async def test_texts_that_would_take_too_long_are_refused() -> None:
    with pytest.raises(GraderError, match="at most"):
        await grader("rouge_l").grade(Sample.of_text("x" * (MAX_CHARS + 1)), {"reference": "y"})


@pytest.mark.parametrize("metric", METRICS)
async def test_others_go_on_while_long_texts_are_compared(metric: str) -> None:
    text = "so many words " * 1000
    grading = asyncio.create_task(grader(metric).grade(Sample.of_text(text), {"reference": text}))
    await asyncio.sleep(0)
    assert not grading.done()
    assert (await grading).score == pytest.approx(1)


@pytest.mark.parametrize("metric", ["fuzzy_match", "rouge_l"])
async def test_no_metric_keeps_the_interpreter_to_itself(metric: str) -> None:
    texts = [" ".join(long_text(MAX_CHARS // 2, 20_000, seed)) for seed in (1, 2)]
    grading = asyncio.create_task(grader(metric).grade(Sample.of_text(texts[0]), {"reference": texts[1]}))
    turns = 0
    while not grading.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 4, "of the event loop, beside some tenths of a second's work"
