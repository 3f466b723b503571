"""Tokens counted from vLLM's own outputs, in each of the ways in which it hands them out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.outputs import CompletionOutput, RequestOutput

from server.engine.token_count import TokenCount

pytestmark = pytest.mark.engine

# For each of several answers to one prompt, how many tokens each step brings.
STEPS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=3)


def output(prompt: list[int], answers: dict[int, int], finished: bool) -> RequestOutput:
    completions = [CompletionOutput(index, "", [7] * tokens, None, None) for index, tokens in answers.items()]
    return RequestOutput("id", None, prompt, None, completions, finished)


@settings(derandomize=True, deadline=None)
@given(STEPS, st.booleans())
def test_every_token_is_counted_once(steps: list[list[int]], cumulative: bool) -> None:
    count, prompt, counted = TokenCount(cumulative=cumulative), [1, 2, 3], [0, 0]
    for index, answer in enumerate(steps):
        for step, tokens in enumerate(answer):
            shown = sum(answer[: step + 1]) if cumulative else tokens
            prompt_tokens, new_tokens, _ = count.new(output(prompt, {index: shown}, False))
            assert new_tokens == tokens
            counted = [counted[0] + prompt_tokens, counted[1] + new_tokens]
    assert counted == [3, sum(map(sum, steps))]


def test_several_answers_at_once_have_one_prompt() -> None:
    assert TokenCount(cumulative=False).new(output([1, 2], {0: 4, 1: 5}, True)) == (2, 9, 0)


def test_cached_tokens_are_counted_with_the_prompt() -> None:
    count, answer = TokenCount(cumulative=False), output([1, 2, 3], {0: 1}, False)
    answer.num_cached_tokens = 2
    assert [count.new(answer) for _ in range(2)] == [(3, 1, 2), (0, 1, 0)]
