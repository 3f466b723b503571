"""Models of other families give every request the answer of its own adapter: against merged weights in transformers.

By default those whose mechanisms differ run; TINYLORA_TEST_FAMILIES=all, or names with commas, runs others.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.factors.build import build_factors
from tests.adapters.families import FAMILIES, Merged, save_family
from tests.engine.noise import measured_tolerance
from tests.engine.reference import MergedReference
from tests.engine.running import RunningEngine
from tests.engine.test_answers import assert_is_adapters_answer, job, prompt_of

pytestmark = pytest.mark.engine

# Linears fused in the checkpoint; another layout of norms, embeddings and windows; experts; vLLM's backend that runs
# transformers' own model.
DIFFERENT = "phi3,gemma3,qwen3_moe,olmo2"
CHOSEN = os.environ.get("TINYLORA_TEST_FAMILIES", DIFFERENT)
ADAPTERS = [None, 0, 1, 0, None, 1]


@pytest.mark.parametrize("name", FAMILIES if CHOSEN == "all" else CHOSEN.split(","))
def test_a_batch_gets_the_answers_of_its_adapters(tmp_path: Path, name: str) -> None:
    path = save_family(tmp_path / name, name)
    factors = build_factors(path, progress=False)
    reference = MergedReference(Merged(path, factors, 2))
    engine = RunningEngine(str(path), factors, max_num_seqs=8)
    try:
        engine.tolerance = measured_tolerance(engine, reference)
        jobs = [job(reference, prompt_of(5 + 7 * i, i), adapter) for i, adapter in enumerate(ADAPTERS)]
        answers = engine.all(jobs)
    finally:
        engine.close()
    for answer, adapter in zip(answers, ADAPTERS, strict=True):
        assert_is_adapters_answer(reference, answer, adapter)
        if adapter is not None:
            base = reference.logprobs(answer, None)
            assert max(abs(x - y) for x, y in zip(base, answer.logprobs, strict=True)) > 4 * answer.tolerance
