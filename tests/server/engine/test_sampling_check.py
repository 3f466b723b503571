"""Sampling parameters that vLLM's second model runner cannot take are refused before it has them, and no others.

The parameters are completed by vLLM's own front end, with the embedded model's tokenizer and no engine.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from vllm import envs
from vllm.config import ModelConfig, VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.worker.gpu.sample import logit_bias
from vllm.v1.worker.gpu.sample.bad_words import BadWordsState
from vllm.v1.worker.gpu.sample.states import SamplingStates
from vllm.v1.worker.gpu.states import RequestState

from server.engine.sampling_check import INT32_MAX, INT64_MAX, check_sampling
from server.engine.sampling_limits import MAX_ALLOWED_TOKENS, MAX_BIASED_TOKENS, MAX_STOP_TOKENS
from server.engine.vllm import AdapterLLM
from server.launch.embedded_model import ensure_embedded_model

CONTEXT = 512
WORD_TOKENS = 8


@pytest.fixture(scope="module")
def inputs() -> InputProcessor:
    config = ModelConfig(model=str(ensure_embedded_model()), dtype="float32", max_model_len=CONTEXT)
    return InputProcessor(VllmConfig(model_config=config))


def completed(inputs: InputProcessor, params: SamplingParams) -> SamplingParams:
    """As the engine gets them."""
    request = inputs.process_inputs("request", {"type": "token", "prompt_token_ids": [1]}, params, ("generate",))
    assert request.sampling_params is not None
    return request.sampling_params


def stops(inputs: InputProcessor, number: int) -> list[int]:
    """So that, with the model's own, there are `number` in all."""
    own = completed(inputs, SamplingParams()).all_stop_token_ids
    return [token for token in range(1000) if token not in own][: number - len(own)]


def words(inputs: InputProcessor, more: int) -> list[str]:
    """As many as the engine takes tokens of, and `more`: digits are a token each, with and without a space before."""
    pairs = envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS // WORD_TOKENS
    made = [f"{number:0{WORD_TOKENS}d}" for number in range(pairs)]
    made[-1] += "0" * more
    tokens = completed(inputs, SamplingParams(bad_words=made[:-1])).bad_words_token_ids
    assert tokens is not None and all(len(word) == WORD_TOKENS for word in tokens) and len(tokens) == len(made) - 1
    return made


def edge(inputs: InputProcessor, field: str, more: int) -> dict[str, Any]:
    """The largest parameters that are taken, and by `more` than that."""
    return {
        "logit_bias": {"logit_bias": dict.fromkeys(range(MAX_BIASED_TOKENS + more), 1.0)},
        "allowed_token_ids": {"allowed_token_ids": list(range(MAX_ALLOWED_TOKENS + more))},
        "stop_token_ids": {"min_tokens": 1, "stop_token_ids": stops(inputs, MAX_STOP_TOKENS + more)},
        "bad_words": {"bad_words": words(inputs, more)},
        "max_tokens": {"max_tokens": INT32_MAX - CONTEXT + more},
        "seed": {"seed": INT64_MAX + more},
    }[field]


FIELDS = ["logit_bias", "allowed_token_ids", "stop_token_ids", "bad_words", "max_tokens", "seed"]


@pytest.mark.parametrize("field", FIELDS)
def test_what_the_runner_takes_is_let_through_and_one_more_is_not(inputs: InputProcessor, field: str) -> None:
    fits, beyond = (SamplingParams(**edge(inputs, field, more)) for more in (0, 1))
    check_sampling(fits, inputs)
    completed(inputs, beyond)  # vLLM's front end lets it through
    with pytest.raises(VLLMValidationError, match=f"^{field} (is|has) .*expected at most") as refused:
        check_sampling(beyond, inputs)
    assert refused.value.parameter == field


def test_the_limits_are_those_of_the_runners_arrays() -> None:
    ours, theirs = (MAX_BIASED_TOKENS, MAX_ALLOWED_TOKENS, MAX_STOP_TOKENS), (
        logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS, logit_bias.MAX_NUM_ALLOWED_TOKEN_IDS, logit_bias.MAX_NUM_STOP_TOKEN_IDS
    )  # fmt: skip
    assert ours == theirs, "vLLM's second model runner takes other numbers of tokens: change sampling_limits.py"
    for kind, line in (
        (RequestState, "self.max_seq_len = np.zeros(self.max_num_reqs, dtype=np.int32)"),
        (SamplingStates, "self.seeds = UvaBackedTensor(max_num_reqs, dtype=torch.int64)"),
        (BadWordsState, "max_total_tokens = envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS"),
    ):
        assert line in inspect.getsource(kind), (
            f"{kind.__name__} has other arrays: read it and change sampling_check.py"
        )


def test_the_runner_refuses_nothing_else() -> None:
    found = {}
    for file in sorted(Path(inspect.getfile(logit_bias)).parent.rglob("*.py")):
        takes = [node for node in ast.walk(ast.parse(file.read_text())) if getattr(node, "name", None) == "add_request"]
        raises = sum(isinstance(node, ast.Raise) for method in takes for node in ast.walk(method))
        found |= {file.name: raises} if raises else {}
    assert found == {
        "bad_words.py": 2,  # words, which vLLM's front end counts too, and their tokens
        "logit_bias.py": 3,  # tokens of allowed_token_ids, logit_bias and stop_token_ids
        "logprob.py": 1,  # logprob_token_ids, which vLLM's front end counts too
    }, "vLLM's second model runner refuses something else of a request: check it in sampling_check.py"


def test_every_answer_of_a_request_has_a_seed_of_its_own(inputs: InputProcessor) -> None:
    check_sampling(SamplingParams(seed=INT64_MAX - 1, n=2), inputs)
    with pytest.raises(VLLMValidationError, match=r"^seed is \d+, expected at most \d+ with n = 3"):
        check_sampling(SamplingParams(seed=INT64_MAX - 1, n=3), inputs)


def test_stop_tokens_alone_are_not_in_its_arrays(inputs: InputProcessor) -> None:
    check_sampling(SamplingParams(stop_token_ids=list(range(1000))), inputs)


@pytest.mark.parametrize("field", FIELDS)
async def test_no_request_reaches_the_engine_unchecked(inputs: InputProcessor, field: str) -> None:
    llm = AdapterLLM.__new__(AdapterLLM)  # with no engine behind it, and so nothing else that could refuse
    llm.input_processor = inputs
    with pytest.raises(VLLMValidationError, match=f"^{field} "):
        await anext(llm.generate([1], SamplingParams(**edge(inputs, field, 1)), "request"))
