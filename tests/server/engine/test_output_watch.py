"""Tokens counted from what vLLM's engine gives, by vLLM's own OutputProcessor, however answers are handed out."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.metrics.stats import PrefillStats

from server.core.request_state import RequestUsage
from server.engine.output_watch import COUNT, GivenBack, watch_outputs
from server.engine.protocol import TokenObserver
from server.engine.token_count import TokenCount
from server.launch.embedded_model import ensure_embedded_model

KINDS = list(RequestOutputKind)


class Engine:
    """An OutputProcessor whose engine gives what a test says."""

    def __init__(self, tokenizer: Any = None) -> None:
        self.gave = 0
        self.processor = OutputProcessor(tokenizer, log_stats=False)
        watch_outputs(self.processor, self._gave)

    def _gave(self) -> None:
        self.gave += 1

    def ask(
        self, name: str, prompt: list[int], params: Any, observe: TokenObserver | None = None, **options: Any
    ) -> RequestOutputCollector:
        """As `AsyncLLM.add_request` does."""
        pooling = isinstance(params, PoolingParams)
        both = (None, params) if pooling else (params, None)
        request = EngineCoreRequest(name, prompt, None, *both, 0.0, None, None, None, external_req_id=name, **options)
        queue = RequestOutputCollector(params.output_kind, name)
        if not self.processor.has_request(name):  # a further piece of its prompt is added by a task of the first one
            COUNT.set(None if observe is None else TokenCount(observe))
        if pooling or params.n == 1:
            self.processor.add_request(request, None, None, 0, queue)
            return queue
        parent = ParentRequest(request)
        for index in range(params.n):
            child = copy(request)
            child.request_id, child.sampling_params = parent.get_child_info(index)
            self.processor.add_request(child, None, parent, index, queue)
        return queue

    def give(self, *outputs: EngineCoreOutput) -> list[str]:
        """One step; which requests the engine is told to stop."""
        told: list[str] = self.processor.process_outputs(list(outputs)).reqs_to_abort
        return told


def params(kind: RequestOutputKind, **options: Any) -> Any:
    return SamplingParams(output_kind=kind, detokenize=False, **options)


def output(name: str, tokens: int, *, ends: bool = False, cached: int | None = None) -> EngineCoreOutput:
    reason = FinishReason.LENGTH if ends else None
    stats = None if cached is None else PrefillStats(num_cached_tokens=cached)
    return EngineCoreOutput(name, [7] * tokens, finish_reason=reason, prefill_stats=stats)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted_step_by_step_whether_they_are_handed_out_or_not(kind: RequestOutputKind) -> None:
    engine, usage = Engine(), RequestUsage()
    queue = engine.ask("a", [1, 2, 3], params(kind), usage.add)
    engine.give(output("a", 1, cached=2))
    assert usage == RequestUsage(3, 1, 2) and usage.first_token_at is not None
    assert (queue.get_nowait() is None) == (kind == RequestOutputKind.FINAL_ONLY)
    engine.give(output("a", 4))
    assert (usage.completion_tokens, engine.gave) == (5, 2)
    engine.processor.abort_requests(["a"], internal=True)
    engine.give(output("a", 1))  # which the engine gave before it heard of that
    assert usage == RequestUsage(3, 5, 2)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=3), st.sampled_from(KINDS))
def test_several_answers_have_one_prompt_and_every_token_is_counted_once(
    steps: list[list[int]], kind: RequestOutputKind
) -> None:
    engine, usage, other = Engine(), RequestUsage(), RequestUsage()
    engine.ask("a", [1, 2], params(kind, n=len(steps)), usage.add)
    engine.ask("other", [1], params(kind), other.add)
    names = [f"{index}_a" for index in range(len(steps))] if len(steps) > 1 else ["a"]
    for step in range(max(map(len, steps))):
        engine.give(
            output("other", 1),
            *(
                output(names[index], answer[step], ends=step == len(answer) - 1)
                for index, answer in enumerate(steps)
                if step < len(answer)
            ),
        )
    assert usage == RequestUsage(2, sum(map(sum, steps)))
    assert other == RequestUsage(1, max(map(len, steps)))
    assert list(engine.processor.request_states) == ["other"]


def test_tokens_behind_a_stop_text_are_not_counted() -> None:
    tokenizer = AutoTokenizer.from_pretrained(ensure_embedded_model(), local_files_only=True)
    engine, usage = Engine(tokenizer), RequestUsage()
    engine.ask("a", [1], SamplingParams(stop=["two"], output_kind=RequestOutputKind.FINAL_ONLY), usage.add)
    before, behind = (tokenizer.encode(text, add_special_tokens=False) for text in ("one two", " three four"))
    assert engine.give(EngineCoreOutput("a", before + behind)) == ["a"]
    assert usage == RequestUsage(1, len(before))


def test_what_only_reads_its_prompt_is_counted_once() -> None:
    engine, usage = Engine(), RequestUsage()
    engine.ask("a", [1, 2, 3], PoolingParams(task="embed"), usage.add)
    engine.give(EngineCoreOutput("a", [], pooling_output=torch.ones(2), finish_reason=FinishReason.STOP))
    assert usage == RequestUsage(3, 0)


def test_a_prompt_that_arrives_in_pieces_is_counted_as_it_grows() -> None:
    engine, usage = Engine(), RequestUsage()
    for piece, prompt_tokens in (([1, 2], 2), ([3, 4, 5], 5)):
        engine.ask("a", piece, params(RequestOutputKind.DELTA), usage.add, resumable=True)
        engine.give(output("a", 1, ends=True))
        assert usage.prompt_tokens == prompt_tokens
    assert usage.completion_tokens == 2


@pytest.mark.parametrize("asked", [*(params(kind) for kind in KINDS), PoolingParams(task="embed")])
async def test_a_request_that_the_engine_gives_back_is_an_error_and_costs_nothing(asked: Any) -> None:
    engine, usage, other = Engine(), RequestUsage(), RequestUsage()
    queue = engine.ask("a", [1, 2, 3], asked, usage.add)
    engine.ask("other", [1], params(RequestOutputKind.DELTA), other.add)
    engine.give(EngineCoreOutput("a", [], finish_reason=FinishReason.ABORT), output("other", 1))
    with pytest.raises(GivenBack) as caught:
        await queue.get()
    assert create_error_response(caught.value).error.code == 503
    assert (usage, other) == (RequestUsage(), RequestUsage(1, 1))
    assert list(engine.processor.request_states) == ["other"]


async def test_of_several_answers_none_is_waited_for_when_one_is_given_back() -> None:
    engine, usage = Engine(), RequestUsage()
    queue = engine.ask("a", [1, 2], params(RequestOutputKind.DELTA, n=3), usage.add)
    engine.give(output("0_a", 2))
    stopped = engine.give(EngineCoreOutput("1_a", [], finish_reason=FinishReason.ABORT), output("0_a", 1))
    with pytest.raises(GivenBack):
        await queue.get()
    assert {"0_a", "2_a"} <= set(stopped)
    assert (usage, engine.processor.request_states) == (RequestUsage(2, 3), {})
    engine.give(EngineCoreOutput("2_a", [], finish_reason=FinishReason.ABORT))  # of which nobody hears any more


def test_a_count_that_fails_ends_nobodys_answer() -> None:
    def fails(*tokens: int) -> None:
        raise ValueError

    engine, usage = Engine(), RequestUsage()
    queue = engine.ask("fails", [1], params(RequestOutputKind.FINAL_ONLY), fails)
    engine.ask("a", [1, 2], params(RequestOutputKind.FINAL_ONLY), usage.add)
    engine.ask("nobody's", [1], params(RequestOutputKind.FINAL_ONLY))
    engine.give(output("fails", 1, ends=True), output("nobody's", 1, ends=True), output("a", 1, ends=True))
    assert usage == RequestUsage(2, 1)
    assert queue.get_nowait() is not None


def test_the_token_of_a_request_that_asked_for_no_answer_is_nobodys() -> None:
    usage = RequestUsage()
    TokenCount(usage.add, prompt_only=True).add(3, 1, 1)
    assert usage == RequestUsage(3, 0, 1)
