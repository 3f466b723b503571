"""Adapters on a quantised base model, with the factors of the original: as PEFT on the weights that it stands for.

Where channels were scaled before they were rounded, as AWQ does, PEFT has the original's weights.

The engine multiplies in fewer bits than PEFT does, so its answers are off without an adapter too. That distance of the
base model is the measure: adapters may add little to it, and move answers by many times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from adapters.factors.build import build_factors
from adapters.factors.quantised import served_factors
from tests.adapters.quantised_checkpoints import Kind, quantise, scale_channels
from tests.engine.reference import PeftReference, save_tiny_model
from tests.engine.running import Generated, RunningEngine
from tests.engine.test_answers import job, prompt_of

pytestmark = pytest.mark.engine

ADAPTERS = 12
# Measured on a CPU, root mean squares in nats: int8 0.032 without an adapter and 0.026 with, int4 0.016 and 0.018; with
# scaled channels, against the original, int8 0.062 and 0.056, int4 0.49 and 0.48, AWQ 0.41 and 0.40;
# adapters move answers by 2.3, and are 3 apart.
TIMES_OF_BASE = 2
LEAST_MOVED = 20


@pytest.mark.parametrize(
    ("kind", "scaled", "dtype"),
    [
        ("int8", False, "float32"),
        ("int4", False, "bfloat16"),
        ("int8", True, "float32"),
        ("int4", True, "bfloat16"),
        ("awq", True, "bfloat16"),
    ],
)
def test_adapters_of_the_original_act_on_its_quantised_weights(
    tmp_path: Path, kind: Kind, scaled: bool, dtype: str
) -> None:
    original = save_tiny_model(tmp_path / "llama", "llama")
    own = build_factors(original, progress=False)
    trained = PeftReference(original, own, ADAPTERS)
    quantised, dequantised = quantise(scale_channels(original, tmp_path) if scaled else original, kind, tmp_path)
    factors = served_factors(quantised, original, progress=False)
    assert factors == own and (factors.scales is not None) == scaled
    reference = trained
    if not scaled:
        reference = PeftReference(dequantised, factors, ADAPTERS)
        # Else PEFT would decompose the quantised weights.
        reference.take_frozen_matrices(trained)

    adapters = [*range(ADAPTERS), *[None] * ADAPTERS]
    engine = RunningEngine(str(quantised), factors, dtype=dtype)
    try:
        # One batch; those without an adapter have other prompts, so that there is more than one answer to measure.
        jobs = [job(trained, prompt_of(9, n), adapter, tokens=12) for n, adapter in enumerate(adapters)]
        answers = engine.all(jobs)
    finally:
        engine.close()

    def distance(answers: Sequence[Generated], adapters: Sequence[int | None]) -> float:
        found = torch.tensor([answer.logprobs for answer in answers])
        expected = [reference.logprobs(answer, adapter) for answer, adapter in zip(answers, adapters, strict=True)]
        return float((found - torch.tensor(expected)).square().mean().sqrt())

    adapted, base = answers[:ADAPTERS], answers[ADAPTERS:]
    own, base_own = distance(adapted, range(ADAPTERS)), distance(base, [None] * ADAPTERS)
    anothers, none = distance(adapted, [*range(1, ADAPTERS), 0]), distance(adapted, [None] * ADAPTERS)
    name = f"{kind} scaled" if scaled else kind
    print(f"{name}: {base_own:.4f} nats without an adapter, {own:.4f} with; another's {anothers:.2f}, none {none:.2f}")
    assert own < TIMES_OF_BASE * base_own
    # Against the original's weights, what rounding took counts too.
    assert min(anothers, none) > (3 if scaled else LEAST_MOVED) * max(own, base_own)
