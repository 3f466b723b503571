"""How many tokens of each request a step has, handed from vLLM's model runners to our manager as just that.

vLLM writes down the adapter of every token, as a tuple: with 8,192 tokens that takes longer than all the rest of our
part in a step. So for our manager the runners' functions that do it are replaced: here an adapter and a number of
tokens for each request leave vLLM's state, and the manager repeats them in one operation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.integer[Any]]]


@dataclass(frozen=True, slots=True)
class TokenRuns:
    """The requests of a step in the order of their tokens.

    ids: (requests,) the id of each request's adapter, 0 for none. tokens: (requests,) how many tokens each has.
    """

    ids: IntArray
    tokens: IntArray


def hand_over_runs(mixin: Any) -> None:
    """Replace what is said above in vLLM's LoRAModelRunnerMixin, for runners whose manager takes runs."""
    load_lora_model, set_active_loras = mixin.load_lora_model, mixin.set_active_loras
    _set_active_loras = mixin._set_active_loras

    @wraps(load_lora_model)
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = load_lora_model(self, *args, **kwargs)
        if _takes_runs(self) and hasattr(self, "lora_state"):  # vLLM's second runner keeps the adapters' ids there
            self.lora_state.make_lora_inputs = _RunsOf(self.lora_state)
        return model

    @wraps(_set_active_loras)
    def set_of_second_runner(self: Any, prompt: Any, tokens: Any, requests: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(tokens, TokenRuns):
            self.lora_manager.set_runs(requests, tokens)
        else:
            _set_active_loras(self, prompt, tokens, requests, *args, **kwargs)

    @wraps(set_active_loras)
    def set_of_first_runner(self: Any, input_batch: Any, tokens: IntArray, *args: Any, **kwargs: Any) -> None:
        if _takes_runs(self):
            ids = input_batch.request_lora_mapping[: input_batch.num_reqs]
            self.lora_manager.set_runs(input_batch.lora_id_to_lora_request.values(), TokenRuns(ids, tokens))
        else:
            set_active_loras(self, input_batch, tokens, *args, **kwargs)

    mixin.load_lora_model, mixin._set_active_loras = load, set_of_second_runner
    mixin.set_active_loras = set_of_first_runner


def _takes_runs(runner: Any) -> bool:
    return hasattr(getattr(runner, "lora_manager", None), "set_runs")


@dataclass(frozen=True, slots=True)
class _RunsOf:
    """In place of `make_lora_inputs` of the second runner's LoraState."""

    state: Any

    def __call__(
        self, req_ids: list[str], idx_mapping: IntArray, num_scheduled_tokens: IntArray
    ) -> tuple[tuple[()], TokenRuns, Collection[Any]]:
        runs, known = TokenRuns(self.state.lora_ids[idx_mapping], num_scheduled_tokens), self.state.lora_requests
        # By number, because vLLM's own set of them calls a function in Python for the hash of each.
        requests = {request.lora_int_id: request for request in map(known.get, req_ids) if request is not None}
        return (), runs, requests.values()
