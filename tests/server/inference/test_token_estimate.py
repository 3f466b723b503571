"""Estimates are of the right size, bounded by the context, and made of whatever was sent."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from server.inference.token_estimate import USUAL_ANSWER_TOKENS, Estimate, estimate

TOKENIZER = Path("models/SmolLM2-135M-Instruct/tokenizer.json")
FIELDS = ["messages", "prompt", "input", "n", "max_tokens", "max_completion_tokens", "sampling_params", "tools"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=10,
)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"prompt": "x" * 400, "max_tokens": 20}, Estimate(120, 1)),
        ({"prompt": [7] * 100, "max_tokens": 20}, Estimate(120, 1)),
        ({"prompt": "x" * 400, "max_tokens": 20, "n": 3}, Estimate(160, 3)),
        ({"prompt": ["x" * 400] * 2, "max_tokens": 20, "n": 3}, Estimate(2 * 100 + 6 * 20, 6)),
        ({"prompt": [[1, 2, 3], [4, 5, 6]], "max_tokens": 20}, Estimate(2 * 23, 2)),
        ({"messages": user("x" * 384), "max_completion_tokens": 20, "max_tokens": 5}, Estimate(97 + 20, 1)),
        ({"messages": [user("x" * 384)] * 4, "max_tokens": 20}, Estimate(4 * 117, 4)),
        ({"messages": user([{"type": "image_url", "image_url": {"url": "data:" + "A" * 9000}}])}, Estimate(260, 1)),
        ({"messages": user([{"type": "text", "text": "data: " + "x" * 378}]), "max_tokens": 20}, Estimate(98 + 20, 1)),
        (
            {
                "messages": user(
                    [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9000}}]
                )
            },
            Estimate(262, 1),
        ),
        (
            {"messages": user([{"type": "input_audio", "input_audio": {"data": "A" * 900, "format": "wav"}}])},
            Estimate(261, 1),
        ),
        ({"messages": [{"role": "tool", "content": {"data": "x" * 384}}], "max_tokens": 20}, Estimate(97 + 20, 1)),
        ({"input": "x" * 400, "max_output_tokens": 20}, Estimate(120, 1)),
        ({"token_ids": [1] * 100, "sampling_params": {"max_tokens": 20}}, Estimate(120, 1)),
        ({"token_ids": [1] * 100, "sampling_params": {"max_tokens": 20, "n": 128}}, Estimate(100 + 128 * 20, 128)),
        ({"prompt": "x", "prompt_embeds": ["AAAA", "AAAA"], "max_tokens": 20, "n": 2}, Estimate(3 * 1 + 6 * 20, 6)),
        ({"prompt": "x" * 400}, Estimate(100 + USUAL_ANSWER_TOKENS, 1)),
        ({"prompt": "x" * 400, "max_tokens": 10**9}, Estimate(1000, 1)),  # the rest of the context
        ({"prompt": "x" * 400_000, "max_tokens": 20}, Estimate(1000, 1)),
        ({"prompt": "", "max_tokens": "many", "n": True}, Estimate(1 + USUAL_ANSWER_TOKENS, 1)),
    ],
)
def test_tokens_and_sequences(payload: dict[str, Any], expected: Estimate) -> None:
    assert estimate(payload, 1000) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"input": "x" * 400}, Estimate(100, 1)),
        ({"input": ["x" * 400] * 5}, Estimate(500, 5)),
        ({"input": [[1, 2, 3]] * 5}, Estimate(15, 5)),
        ({"texts": ["x" * 40] * 7}, Estimate(70, 7)),
        ({"inputs": [{"content": [{"type": "text", "text": "x" * 32}]}] * 3}, Estimate(27, 3)),
        ({"query": "x" * 40, "documents": ["x" * 40] * 9}, Estimate(180, 9)),
        ({"query": "x" * 40, "documents": [{"text": "x" * 40}] * 9}, Estimate(180, 9)),
        ({"text_1": ["x" * 40] * 4, "text_2": ["x" * 40] * 4}, Estimate(80, 4)),
        ({"queries": "x" * 40, "items": ["x" * 40] * 64}, Estimate(1280, 64)),
        # Sampling says nothing where nothing is generated.
        ({"input": "x" * 400, "n": 50, "max_tokens": 50}, Estimate(100, 1)),
    ],
)
def test_prompts_without_answers(payload: dict[str, Any], expected: Estimate) -> None:
    assert estimate(payload, 1000, path="/rerank") == expected


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/cohere/v2/chat"])
def test_the_documents_of_a_chat_are_text_of_its_one_prompt(path: str) -> None:
    payload = {"messages": user("x" * 40), "documents": [{"title": "", "text": "x" * 40}] * 9, "max_tokens": 20}
    assert estimate(payload, 1000, path=path) == Estimate(1 + 100 + 20, 1)
    compared = {"query": "x" * 40, "items": ["x" * 40] * 9, "max_tokens": 1}
    assert estimate(compared, 1000, path="/generative_scoring") == Estimate(9 * 21, 9)


@pytest.mark.skipif(not TOKENIZER.exists(), reason="the embedded model is not here")
@pytest.mark.parametrize(
    "text", [Path("pyproject.toml").read_text(), Path("LICENSE").read_text(), "Die Straße ist lang und gerade. " * 40]
)
def test_text_is_estimated_within_a_factor_of_two(text: str) -> None:
    tokens = len(Tokenizer.from_file(str(TOKENIZER)).encode(text))
    assert tokens / 2 < estimate({"prompt": text, "max_tokens": 1}, 10**6).tokens < tokens * 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_body_has_an_estimate_within_the_context(payload: dict[str, Any]) -> None:
    made = estimate(payload, 128)
    assert made.sequences >= 1
    assert 1 <= made.tokens <= 128 * made.sequences
