"""How many ids of tokens vLLM's second model runner (vllm/v1/worker/gpu) takes with a request, in each of these fields.

It has arrays of these sizes, and fails within the engine's worker for more, which ends the engine for everyone. A test
compares them with what it takes. The first model runner has no such limits; it is held to them all the same.
"""

from __future__ import annotations

MAX_BIASED_TOKENS = 1024  # logit_bias
MAX_ALLOWED_TOKENS = 1024  # allowed_token_ids
# stop_token_ids beside min_tokens, with the tokens at which the model itself stops.
MAX_STOP_TOKENS = 128
