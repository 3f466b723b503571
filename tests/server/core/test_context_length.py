"""vLLM's own errors of prompts that do not fit are known, and no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.renderers.params import TokenizeParams
from vllm.v1.engine.input_processor import InputProcessor

from server.core.context_length import is_over_context

CONFIG = SimpleNamespace(max_model_len=8, runner_type="generate")


def as_tokens(length: int) -> None:
    TokenizeParams(max_total_tokens=8).apply_post_tokenization(None, {"prompt_token_ids": [1] * length})


def as_text(length: int) -> None:
    tokenizer: Any = SimpleNamespace(max_chars_per_token=1)
    TokenizeParams(max_total_tokens=8).apply_pre_tokenization(tokenizer, {"prompt": "a" * length})


def with_an_answer(length: int) -> None:
    get_max_tokens(8, None, length, {})


def in_the_engine(length: int) -> None:
    processor: Any = SimpleNamespace(skip_prompt_length_check=False, model_config=CONFIG, supports_mm_inputs=False)
    InputProcessor._validate_prompt_len(processor, length, "decoder")


def of_responses(length: int) -> None:
    serving: Any = SimpleNamespace(
        model_config=CONFIG, _extract_prompt_len=len, create_error_response=create_error_response
    )
    answer = OpenAIServingResponses._validate_generator_input(serving, [1] * length)  # type: ignore[arg-type]
    if answer is not None:
        raise ValueError(answer.error.message)


@pytest.mark.parametrize("check", [as_tokens, as_text, with_an_answer, in_the_engine, of_responses])
@pytest.mark.parametrize("length", [8, 20])
def test_vllms_sentences_are_known(check: Any, length: int) -> None:
    try:
        check(length)
    except Exception as error:
        assert is_over_context(create_error_response(error).error.message), (
            f"vLLM says anew that a prompt does not fit ({error}): change _SENTENCES of server/core/context_length.py"
        )
    else:
        assert length == 8, "vLLM checks the length of prompts elsewhere: find where, and what it says"


def test_other_refusals_are_not_taken_for_it() -> None:
    with pytest.raises(Exception, match="cannot be greater") as caught:
        TokenizeParams(max_total_tokens=8, max_output_tokens=9)
    for message in (str(caught.value), "The encoder prompt (length 9) is longer than the maximum model length of 8", 7):
        assert not is_over_context(message)
