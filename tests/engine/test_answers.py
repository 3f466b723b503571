"""Every answer is the one its own adapter gives, whatever else runs: against PEFT, one sequence at a time."""

import asyncio
import random

import pytest

from adapters.vector.mixing import scale
from tests.engine.conftest import ADAPTERS, Tiny
from tests.engine.reference import VOCABULARY, Reference
from tests.engine.running import Generated, Job, RunningEngine

pytestmark = pytest.mark.engine


def job(reference: Reference, prompt: list[int], adapter: int | None, **more: object) -> Job:
    named = None if adapter is None else (f"a{adapter}", adapter + 1, reference.adapters[adapter])
    return Job(prompt, named, **more)  # type: ignore[arg-type]


def assert_is_adapters_answer(reference: Reference, generated: Generated, adapter: int | None) -> None:
    expected = reference.logprobs(generated, adapter)
    worst = max(abs(x - y) for x, y in zip(expected, generated.logprobs, strict=True))
    assert worst < generated.tolerance, (
        f"adapter {adapter}: {worst:.2g} apart, allowed {generated.tolerance:.2g}; log-probabilities "
        f"{generated.logprobs}; expected {expected}"
    )


def prompt_of(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, VOCABULARY), k=length)


def test_adapters_change_answers_by_far_more_than_the_tolerance(llama: Tiny, engine: RunningEngine) -> None:
    (base,) = engine.all([job(llama.reference, prompt_of(9, 0), None)])
    for adapter in range(ADAPTERS):
        adapted = llama.reference.logprobs(base, adapter)
        assert max(abs(x - y) for x, y in zip(adapted, base.logprobs, strict=True)) > 4 * base.tolerance


def test_an_adapter_of_weight_0_is_the_base_model_to_the_last_bit(llama: Tiny, engine: RunningEngine) -> None:
    prompt = prompt_of(9, 0)
    (base,) = engine.all([job(llama.reference, prompt, None)])
    for number in range(3):
        nothing = scale(llama.reference.adapters[number], 0.0)
        (answer,) = engine.all([Job(prompt, (f"nothing-{number}", 950 + number, nothing))])
        assert (answer.tokens, answer.logprobs) == (base.tokens, base.logprobs)


def test_a_batch_of_32_distinct_adapters_and_requests_without(llama: Tiny, engine: RunningEngine) -> None:
    adapters = [None if i % 9 == 8 else i % ADAPTERS for i in range(36)]
    answers = engine.all([job(llama.reference, prompt_of(7, 1), adapter) for adapter in adapters])
    for answer, adapter in zip(answers, adapters, strict=True):
        assert_is_adapters_answer(llama.reference, answer, adapter)


def test_prompts_longer_than_a_batch_are_prefilled_in_chunks(llama: Tiny, engine: RunningEngine) -> None:
    adapters = [3, None, 4, 5]
    answers = engine.all([job(llama.reference, prompt_of(100, i), a) for i, a in enumerate(adapters)])
    for answer, adapter in zip(answers, adapters, strict=True):
        assert_is_adapters_answer(llama.reference, answer, adapter)


def test_the_prefix_cache_is_shared_within_an_adapter_and_never_across(llama: Tiny, engine: RunningEngine) -> None:
    prompt = prompt_of(70, 99)
    cached = []
    for adapter in (10, 11, None, 10, 11, None):
        (answer,) = engine.all([job(llama.reference, prompt, adapter)])
        assert_is_adapters_answer(llama.reference, answer, adapter)
        cached.append(answer.cached_tokens)
    assert cached == [0, 0, 0, 64, 64, 64]  # two whole blocks of 32


def test_a_new_version_under_the_same_name_and_id_does_not_see_the_old_ones_cache(
    llama: Tiny, engine: RunningEngine
) -> None:
    prompt = prompt_of(70, 98)
    for content in (20, 21):
        (answer,) = engine.all([Job(prompt, ("same-name", 900, llama.reference.adapters[content]))])
        assert answer.cached_tokens == 0
        assert_is_adapters_answer(llama.reference, answer, content)


def test_hundreds_of_short_requests_never_get_another_ones_adapter(llama: Tiny, engine: RunningEngine) -> None:
    """Random lengths, adapters, start times and aborts, so that the batch changes at nearly every step."""
    choose = random.Random(7)
    plan = [
        (prompt_of(choose.randint(1, 50), i), choose.choice([None, *range(ADAPTERS)]), choose.randint(1, 12))
        for i in range(300)
    ]

    async def one(prompt: list[int], adapter: int | None, tokens: int, delay: float, abort: bool) -> Generated | None:
        await asyncio.sleep(delay)
        request = job(llama.reference, prompt, adapter, tokens=tokens)
        if not abort:
            return await engine.complete(request)
        stream = engine.stream(request)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        return None

    async def everything() -> list[Generated | None]:
        return await asyncio.gather(
            *(one(*request, delay=choose.random() * 2, abort=choose.random() < 0.1) for request in plan)
        )

    answers = engine.run(everything())
    finished = [(answer, request[1]) for answer, request in zip(answers, plan, strict=True) if answer]
    assert len(finished) > 200
    for answer, adapter in finished:
        assert_is_adapters_answer(llama.reference, answer, adapter)


def test_more_adapters_than_the_table_has_rows(llama: Tiny) -> None:
    """Rows are given away and computed again; run on the table itself, which needs no engine."""
    import torch

    from adapters.apply.engine_form import engine_form
    from adapters.apply.reconstruct import matrices
    from adapters.vllm.matrix_table import MatrixTable

    class Request:
        def __init__(self, adapter: int) -> None:
            self.lora_int_id = adapter + 1
            self.lora_path = engine_form(llama.reference.adapters[adapter], llama.factors)

    table = MatrixTable(llama.factors, rows=6, device=torch.device("cpu"))
    for step in range(50):
        batch = [(step * 3 + i) % ADAPTERS for i in range(4)]
        rows = table.rows_for([Request(adapter) for adapter in batch])
        assert len(set(rows.values())) == 4 and min(rows.values()) > 1
        for adapter in batch:
            expected = matrices(llama.reference.adapters[adapter], llama.factors).reshape(-1)
            torch.testing.assert_close(table.values_SE[rows[adapter + 1]], expected, rtol=0, atol=0)
    assert not table.values_SE[0].any()
