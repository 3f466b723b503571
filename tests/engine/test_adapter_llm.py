"""Where requests enter the engine: with their own adapter or not at all, and a bad one ends nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import psutil
import pytest
from vllm.lora.request import LoRARequest
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams

from adapters.apply.engine_form import engine_form
from adapters.vector.adapter import Adapter
from server.core.request_state import RequestUsage
from server.engine.protocol import ServedAdapter, TokenObserver
from server.engine.vllm import ACTIVE, Active, AdapterLLM, WrongAdapter
from server.launch.self_check import AdaptersWithoutEffect, check_adapters_work
from tests.engine.conftest import Tiny
from tests.engine.running import RunningEngine
from tests.engine.test_answers import assert_is_adapters_answer, job, prompt_of

pytestmark = pytest.mark.engine

GENERATE = ("generate",)
EMBED = ("embed",)


@pytest.fixture(scope="module")
def adapted(llama: Tiny) -> Iterator[RunningEngine]:
    running = llama.engine(client=AdapterLLM)
    yield running
    running.close()


def served(name: str, adapter: Adapter, tiny: Tiny) -> ServedAdapter:
    return ServedAdapter(name, adapter, name, engine_form(adapter, tiny.factors))


async def first_logprob(llm: Any, asked: ServedAdapter | None, announced: LoRARequest | None, request_id: str) -> float:
    """The request asked for one adapter, and vLLM's handler hands over another."""
    ACTIVE.set(Active(asked))
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=0, detokenize=False)
    async for output in llm.generate({"prompt_token_ids": [5, 6, 7]}, params, request_id, lora_request=announced):
        (logprobs,) = output.outputs[0].logprobs
        return float(next(iter(logprobs.values())).logprob)
    raise AssertionError("no answer")


def test_equal_names_run_with_their_own_contents_in_one_batch(llama: Tiny, adapted: RunningEngine) -> None:
    contents = llama.reference.adapters[:6]
    announced = Active(served("demo@1", contents[0], llama)).announced

    async def ask(prefix: str, order: list[int]) -> list[float]:
        asked = [
            first_logprob(adapted.llm, served("demo@1", contents[index], llama), announced, f"{prefix}{number}")
            for number, index in enumerate(order)
        ]
        return list(await asyncio.gather(*(asyncio.create_task(one) for one in asked)))

    alone = [adapted.run(ask(f"alone{index}-", [index]))[0] for index in range(6)]
    assert len({round(value, 2) for value in alone}) > 3
    together = adapted.run(ask("together", [0, 1, 2, 3, 4, 5] * 4))
    assert together == pytest.approx(alone * 4, abs=adapted.tolerance)


def test_an_answer_of_another_adapter_than_the_requests_is_refused(llama: Tiny, adapted: RunningEngine) -> None:
    one, two = (served(name, adapter, llama) for name, adapter in zip("ab", llama.reference.adapters[:2], strict=True))
    cases = [
        (one, None, "asked for a, .* answered with the base model"),
        (None, one, "asked for the base model, .* answered with a"),
        (one, two, "asked for a, .* answered with b"),
    ]
    for number, (asked, runs, message) in enumerate(cases):
        with pytest.raises(WrongAdapter, match=message):
            adapted.run(first_logprob(adapted.llm, asked, Active(runs).announced, f"wrong{number}"))


def test_what_cannot_be_an_adapter_ends_its_own_request_only(llama: Tiny, engine: RunningEngine) -> None:
    """Sent past the gateway's checks, straight to vLLM."""
    right = engine_form(llama.reference.adapters[0], llama.factors)
    forms = ["not an adapter", right[:-9], right.replace(llama.factors.digest, "0" * 64)]
    assert forms[2] != right

    async def bad(number: int, form: str) -> str:
        params = SamplingParams(temperature=0, max_tokens=4, detokenize=False)
        request = LoRARequest(f"bad{number}", 1000 + number, form)
        outputs = engine.llm.generate({"prompt_token_ids": [5, 6]}, params, f"b{number}", lora_request=request)
        *_, last = [output async for output in outputs]
        return str(last.outputs[0].finish_reason)

    async def everything() -> tuple[Any, Any]:
        good = [engine.complete(job(llama.reference, prompt_of(9, i), i)) for i in range(8)]
        reasons = [bad(number, form) for number, form in enumerate(forms)]
        return await asyncio.gather(asyncio.gather(*good), asyncio.gather(*reasons, return_exceptions=True))

    answers, reasons = engine.run(everything())
    assert [isinstance(reason, Exception) or reason == "error" for reason in reasons] == [True] * 3, reasons
    for index, answer in enumerate(answers):
        assert_is_adapters_answer(llama.reference, answer, index)


def test_the_check_at_the_start_is_content_with_a_working_engine(llama: Tiny, adapted: RunningEngine) -> None:
    adapted.run(check_adapters_work(adapted.llm, llama.factors, GENERATE))


def test_the_check_at_the_start_notices_that_the_plugin_is_missing(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "others")
    running = llama.engine(client=AdapterLLM)
    try:
        with pytest.raises(AdaptersWithoutEffect, match="VLLM_PLUGINS"):
            running.run(check_adapters_work(running.llm, llama.factors, GENERATE))
    finally:
        running.close()


def test_embeddings_move_with_the_adapter_and_are_guarded_too(llama: Tiny) -> None:
    running = llama.engine(client=AdapterLLM, runner="pooling", convert="embed")

    async def embedding(asked: ServedAdapter | None, announced: LoRARequest | None, request_id: str) -> list[float]:
        ACTIVE.set(Active(asked))
        prompt = {"prompt_token_ids": [5, 6, 7, 8]}
        async for output in running.llm.encode(prompt, PoolingParams(task="embed"), request_id, announced):
            found: list[float] = output.outputs.data.float().flatten().tolist()
            return found
        raise AssertionError("no answer")

    try:
        one = served("demo@1", llama.reference.adapters[0], llama)
        base = running.run(embedding(None, None, "base"))
        moved = running.run(embedding(one, Active(one).announced, "one"))
        assert moved != pytest.approx(base, abs=1e-3)
        with pytest.raises(WrongAdapter):
            running.run(embedding(one, None, "wrong"))
        running.run(check_adapters_work(running.llm, llama.factors, EMBED))
    finally:
        running.close()


def unstreamed(tokens: int, **options: Any) -> SamplingParams:
    """As HTTP requests without `stream` send: nothing is handed out before the last token."""
    kind = RequestOutputKind.FINAL_ONLY
    return SamplingParams(max_tokens=tokens, ignore_eos=True, detokenize=False, output_kind=kind, **options)


async def ask(llm: Any, request_id: str, params: SamplingParams, observe: TokenObserver | None = None) -> list[Any]:
    ACTIVE.set(Active(None, observe))
    return [output async for output in llm.generate({"prompt_token_ids": [5, 6, 7]}, params, request_id)]


def test_an_engine_that_hangs_is_silent_until_it_goes_on(llama: Tiny, adapted: RunningEngine) -> None:
    alive = [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]
    core = next(one for one in alive if "EngineCore" in " ".join(one.cmdline()))
    llm = adapted.llm

    async def hang() -> tuple[float, float]:
        await ask(llm, "hangs-before", unstreamed(2))
        before = llm.progress.silent_s
        core.suspend()
        try:
            answer = asyncio.create_task(ask(llm, "hangs", unstreamed(2)))
            await llm.check_health()
            await asyncio.sleep(1)
            during = llm.progress.silent_s
        finally:
            core.resume()
        (output,) = await answer
        assert len(output.outputs[0].token_ids) == 2
        return before, during

    before, during = adapted.run(hang())
    assert before < 0.1
    assert during > 0.9
    assert llm.progress.silent_s < 0.1


def test_an_answer_is_counted_and_a_sign_of_life_before_it_is_handed_out(llama: Tiny, adapted: RunningEngine) -> None:
    """Answers of 100 tokens, of which their client leaves before the end."""

    async def leave() -> tuple[RequestUsage, list[float]]:
        usage, silences = RequestUsage(), [0.0]
        answers = asyncio.create_task(ask(adapted.llm, "left", unstreamed(100, n=3), usage.add))
        while usage.completion_tokens < 60 and not answers.done():
            silences.append(adapted.llm.progress.silent_s)
            await asyncio.sleep(0.001)
        assert not answers.done()
        answers.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answers
        return usage, silences

    usage, silences = adapted.run(leave())
    assert usage.prompt_tokens == 3
    assert 60 <= usage.completion_tokens < 300
    ended = sum(later < earlier for earlier, later in pairwise(silences))
    assert ended > 3, "one silence from the first to the last of these tokens"
    counted = usage.completion_tokens
    whole = RequestUsage()
    (output,) = adapted.run(ask(adapted.llm, "whole", unstreamed(20, n=3), whole.add))
    assert [len(one.token_ids) for one in output.outputs] == [20, 20, 20]
    assert (whole.prompt_tokens, whole.completion_tokens) == (3, 60)
    assert usage.completion_tokens == counted
