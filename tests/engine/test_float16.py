"""In float16 a strong adapter computes infinities; they are nobody's but its own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from adapters.vector.adapter import Adapter
from tests.engine.conftest import Tiny
from tests.engine.running import Job, RunningEngine
from tests.engine.test_answers import prompt_of

pytestmark = pytest.mark.engine

# Of 32 tokens, so that a block is used again by the next request but one.
BLOCKS = 6


@pytest.mark.parametrize("caching", [False, True], ids=["no prefix cache", "prefix cache"])
def test_what_overflowed_for_one_request_is_not_in_the_answers_of_the_next(llama: Tiny, caching: bool) -> None:
    weak = llama.reference.adapters[0]
    strong = Adapter.from_vector(1e4 * weak.vector().sign(), weak.recipe, weak.factors, "float32")
    engine = RunningEngine(
        str(llama.path),
        llama.factors,
        dtype="float16",
        num_gpu_blocks_override=BLOCKS,
        enable_prefix_caching=caching,
    )
    try:
        jobs = [Job(prompt_of(40, number), tokens=8) for number in range(4)]
        clean = [engine.all([job])[0] for job in jobs]
        for number, job in enumerate(jobs):
            engine.all([replace(job, prompt=prompt_of(90, number), adapter=("strong", 7, strong))])
            (again,) = engine.all([job])
            assert all(map(math.isfinite, again.logprobs))
            assert again.tokens == clean[number].tokens
    finally:
        engine.close()
