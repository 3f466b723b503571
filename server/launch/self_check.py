"""Before a server takes requests: does the engine apply adapters?

    zero vector     the base model's answer
    strong vector   another one

The running engine is asked, compiled or not, by the same call that requests make. vLLM starts without a plugin that
could not be imported or that VLLM_PLUGINS leaves out, so only an answer shows whether ours is there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import torch
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from adapters.apply.engine_form import engine_form
from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from server.engine.protocol import ServedAdapter
from server.engine.vllm import ACTIVE, Active, AdapterLLM
from server.launch.start_checks import CannotStart

PROMPT = {"prompt_token_ids": [5, 7, 11, 13, 17, 19, 23]}
# Far beyond a useful adapter (0.01 to 0.03), and far from what overflows in float16.
STRONG = 1.0
# Share of the strong vector's effect that the zero vector may seem to have, by sums in another order.
TOLERANCE = 0.01
NOTHING = 1e-3
# For all three answers, of a token each.
TIMEOUT_S = 600
WITHOUT_PLUGIN = (
    "vLLM seems to run without the plugin 'tinylora': if VLLM_PLUGINS is set, add tinylora to it; else install this "
    "project again into the environment that runs it, and look for the plugin's import error in the log."
)


class AdaptersWithoutEffect(CannotStart):
    """The engine does not answer as adapters say. The message is for the operator."""


async def check_adapters_work(client: AdapterLLM, factors: Factors, tasks: tuple[Any, ...]) -> None:
    """Returns when they do. Raises AdaptersWithoutEffect, with what to do."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _check(client, factors, tasks)
    except TimeoutError:
        raise AdaptersWithoutEffect(
            f"The engine has not answered its first requests within {TIMEOUT_S} s; its log says what it does."
        ) from None


async def _check(client: AdapterLLM, factors: Factors, tasks: tuple[Any, ...]) -> None:
    try:
        base = await _answer(client, tasks, None)
    except EngineDeadError as error:
        raise AdaptersWithoutEffect("The first request ended the engine; its log says why.") from error
    try:
        zero = await _answer(client, tasks, _constant(factors, 0.0))
        strong = await _answer(client, tasks, _constant(factors, STRONG))
    except EngineDeadError as error:
        raise AdaptersWithoutEffect(
            f"The first request with an adapter ended the engine; its log says why. If it does not: {WITHOUT_PLUGIN}"
        ) from error
    effect, noise = _distance(strong, base), _distance(zero, base)
    if not effect > NOTHING:
        raise AdaptersWithoutEffect(f"Adapters have no effect on the engine's answers. {WITHOUT_PLUGIN}")
    if not noise <= TOLERANCE * effect:
        raise AdaptersWithoutEffect(
            f"An adapter of zeros changes the engine's answer by {noise:.2g}, where a strong one changes it by "
            f"{effect:.2g}. The compiled graph is wrong: remove vLLM's cache (VLLM_CACHE_ROOT, by default "
            "~/.cache/vllm) and start again, or start with --enforce-eager."
        )


def _constant(factors: Factors, value: float) -> ServedAdapter:
    recipe = default_recipe(factors)
    v_GU = torch.full((recipe.groups, recipe.u), value)
    adapter = Adapter.from_vector(v_GU, recipe, factors.digest, "float32")
    return ServedAdapter("self-check", adapter, "self-check", engine_form(adapter, factors))


async def _answer(client: AdapterLLM, tasks: tuple[Any, ...], served: ServedAdapter | None) -> dict[int, float]:
    """Numbers by their place: log-probabilities of the prompt's tokens, or an embedding."""
    token = ACTIVE.set(Active(served))
    try:
        request_id = f"self-check-{'base' if served is None else served.adapter.digest[:8]}"
        announced = ACTIVE.get().announced
        if "generate" in tasks:
            params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
            output = await _last(client.generate(PROMPT, params, request_id, lora_request=announced))
            told = enumerate(output.prompt_logprobs or ())
            return {place: next(iter(entry.values())).logprob for place, entry in told if entry}
        pooling = PoolingParams(task=next(task for task in tasks if task != "plugin"))
        output = await _last(client.encode(PROMPT, pooling, request_id, lora_request=announced))
        return dict(enumerate(output.outputs.data.float().flatten().tolist()))
    finally:
        ACTIVE.reset(token)


async def _last(outputs: AsyncIterator[Any]) -> Any:
    last = None
    async for output in outputs:
        last = output
    if last is None:
        raise AdaptersWithoutEffect("The engine did not answer the first prompt; its log says why.")
    return last


def _distance(one: dict[int, float], other: dict[int, float]) -> float:
    """The largest difference; NaN where any number is."""
    return max(abs(one[place] - other[place]) if place in one else math.nan for place in other)
