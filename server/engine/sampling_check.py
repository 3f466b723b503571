"""Refuses sampling parameters with which vLLM's engine would end, for everyone.

vLLM's front end checks whether ids of tokens are in the vocabulary, and little of how many there are or how large
numbers are. What does not fit into the arrays of its second model runner (sampling_limits.py) is an error within the
worker, and such an error is the engine's end.

It looks at what the parameters become: bad words are counted in tokens, with the model's own stop tokens there.
"""

from __future__ import annotations

from vllm import envs
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.input_processor import InputProcessor

from server.engine.sampling_limits import MAX_ALLOWED_TOKENS, MAX_BIASED_TOKENS, MAX_STOP_TOKENS

INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1


def check_sampling(params: SamplingParams, inputs: InputProcessor) -> None:
    """VLLMValidationError, which is answered as 400, for the first field of `params` that the engine cannot take."""
    _at_most("logit_bias", len(params.logit_bias or ()), MAX_BIASED_TOKENS, "tokens")
    _at_most("allowed_token_ids", len(params.allowed_token_ids or ()), MAX_ALLOWED_TOKENS, "tokens")
    # The length of the whole sequence is one number.
    longest = INT32_MAX - inputs.model_config.max_model_len
    if params.max_tokens is not None and params.max_tokens > longest:
        raise VLLMValidationError(
            f"max_tokens is {params.max_tokens}, expected at most {longest}.", parameter="max_tokens"
        )
    # Each of n answers has the next seed.
    if params.seed is not None and params.seed + params.n - 1 > INT64_MAX:
        raise VLLMValidationError(
            f"seed is {params.seed}, expected at most {INT64_MAX - params.n + 1} with n = {params.n}.", parameter="seed"
        )
    if params.bad_words or (params.min_tokens > 0 and params.stop_token_ids):
        _check_completed(_completed(params, inputs))


def _check_completed(params: SamplingParams) -> None:
    words = sum(len(tokens) for tokens in params.bad_words_token_ids or ())
    _at_most(
        "bad_words", words, envs.VLLM_MAX_BAD_WORDS_TOTAL_TOKENS, "tokens in all, each word with and without a space"
    )
    if params.min_tokens > 0:
        stops = len(params.all_stop_token_ids)
        _at_most("stop_token_ids", stops, MAX_STOP_TOKENS, "tokens beside min_tokens, the model's own among them")


def _completed(params: SamplingParams, inputs: InputProcessor) -> SamplingParams:
    """As vLLM completes them when it hands a request to the engine."""
    completed = params.clone()
    completed.update_from_generation_config(inputs.generation_config_fields, inputs.renderer.get_eos_token_id())
    if inputs.tokenizer is not None:
        completed.update_from_tokenizer(inputs.tokenizer)
    return completed


def _at_most(field: str, count: int, most: int, of_what: str) -> None:
    if count > most:
        raise VLLMValidationError(f"{field} has {count} {of_what}, expected at most {most}.", parameter=field)
