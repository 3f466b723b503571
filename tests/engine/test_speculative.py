"""Speculative decoding: drafts are guesses of the base model or of the prompt, and answers are the adapter's."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.engine.conftest import Tiny
from tests.engine.test_answers import assert_is_adapters_answer, job, prompt_of

pytestmark = pytest.mark.engine

ADAPTERS = [None, 0, 1, 2, 3, None, 0, 4]
TOKENS = 24


def total(name: str) -> float:
    """A counter of vLLM's, over all engines of this process."""
    return sum(sample.value for metric in REGISTRY.collect() for sample in metric.samples if sample.name == name)


def drafted_and_accepted() -> tuple[float, float]:
    return total("vllm:spec_decode_num_draft_tokens_total"), total("vllm:spec_decode_num_accepted_tokens_total")


@pytest.fixture(scope="module")
def without(llama: Tiny) -> list[list[int]]:
    """The tokens of an engine that does not speculate."""
    running = llama.engine()
    try:
        return [answer.tokens for answer in running.all(jobs(llama))]
    finally:
        running.close()


def jobs(llama: Tiny) -> list[Any]:
    # Twice the same, so that n-grams of the prompt come again.
    return [job(llama.reference, prompt_of(6, n) * 3, adapter, tokens=TOKENS) for n, adapter in enumerate(ADAPTERS)]


@pytest.mark.parametrize("method", ["ngram", "draft model"])
def test_answers_are_those_without_speculation(llama: Tiny, without: list[list[int]], method: str) -> None:
    config: dict[str, Any] = {"num_speculative_tokens": 3}
    if method == "ngram":
        config |= {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    else:
        config |= {"method": "draft_model", "model": str(llama.path)}
    running = llama.engine(speculative_config=config, disable_log_stats=False)
    try:
        before = drafted_and_accepted()
        answers = running.all(jobs(llama))
        drafted, accepted = (now - then for now, then in zip(drafted_and_accepted(), before, strict=True))
    finally:
        running.close()
    assert 0 < accepted < drafted, "no draft was accepted, or none refused: this test shows nothing"
    assert [answer.tokens for answer in answers] == without
    for answer, adapter in zip(answers, ADAPTERS, strict=True):
        assert_is_adapters_answer(llama.reference, answer, adapter)
