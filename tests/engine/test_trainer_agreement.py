"""The engine and the trainer give a text the same log-probabilities, in bfloat16, also under a strong adapter.

Both round, in another order, so they differ with the base model too; an adapter must not add to that. The importance
ratio of the GRPO loss is made of that difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.build import build_factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.forward import score
from server.training.worker.packing import TokenSequence
from tests.engine.running import Job, RunningEngine

pytestmark = pytest.mark.engine

ROWS, TOKENS = 12, 100
TEXT = Path(__file__).parents[2] / "docs" / "training.md"


def of_engine(engine: RunningEngine, rows: list[list[int]], adapter: tuple[str, int, Adapter] | None) -> Tensor:
    """The log-probabilities of all tokens of each row but the first, float32 (rows, tokens - 1)."""

    async def one(row: list[int]) -> list[float]:
        last: Any = None
        async for output in engine.stream(Job(row, adapter, tokens=1, options={"prompt_logprobs": 0})):
            last = output
        scored = zip(last.prompt_logprobs[1:], row[1:], strict=True)
        return [candidates[token].logprob for candidates, token in scored]

    return torch.tensor([engine.run(one(row)) for row in rows])


def of_trainer(model: TrainableAdapters, rows: list[list[int]], handle: int) -> Tensor:
    return score(model, [TokenSequence(handle, row[:1], row[1:]) for row in rows]).logprobs_BC


@pytest.mark.slow
def test_a_strong_adapter_adds_nothing_to_what_engine_and_trainer_differ_by() -> None:
    from server.launch.embedded_model import ensure_embedded_model

    path = ensure_embedded_model()
    factors = build_factors(path, rank=2, progress=False)
    ids = AutoTokenizer.from_pretrained(path)(TEXT.read_text()).input_ids
    rows = [ids[start : start + TOKENS] for start in range(0, ROWS * TOKENS, TOKENS)]
    v_GU = 0.2 * torch.randn(13, 1, generator=torch.Generator().manual_seed(0))
    adapter = Adapter.from_vector(v_GU, Recipe(), factors.digest, "float32")

    model = TrainableAdapters(AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval(), factors)
    engine = RunningEngine(str(path), factors, dtype="bfloat16", enable_prefix_caching=False)
    try:
        base = of_engine(engine, rows, None), of_trainer(model, rows, BASE)
        adapted = of_engine(engine, rows, ("strong", 1, adapter)), of_trainer(model, rows, model.add(adapter))
    finally:
        engine.close()
    distance_of_base, distance = ((ours - theirs).abs().mean().item() for ours, theirs in (base, adapted))
    effect = (adapted[0] - base[0]).abs().mean().item()
    print(f"mean distance in nats: base {distance_of_base:.5f}, adapter {distance:.5f}; its effect {effect:.3f}")
    assert effect > 10 * distance_of_base
    assert distance < 1.5 * distance_of_base
