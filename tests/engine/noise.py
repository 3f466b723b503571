"""How far an engine's answers may be from a reference's: as far as the base model's own allow.

In float32 on a CPU both compute the same to 5e-6. Elsewhere an engine may multiply in tf32, or add in another order;
what the base model alone differs by says how much that is.
"""

from __future__ import annotations

from tests.engine.reference import Reference
from tests.engine.running import TOLERANCE, Job, RunningEngine

# Answers of adapters differ by up to 2.6 times as much as those of the base model (float32 on a CPU).
TIMES = 10
# With more than this the base model itself is wrong.
MOST = 0.05
PROMPTS = ([3, 5, 8, 13, 21, 34, 55], [89, 144, 233, 121, 98], [200, 100, 50, 25, 12, 6, 3, 9, 27])


def measured_tolerance(engine: RunningEngine, reference: Reference) -> float:
    """TOLERANCE, or more where the base model's log-probabilities differ from transformers' by more than on a CPU."""
    noise = 0.0
    for answer in engine.all([Job(list(prompt)) for prompt in PROMPTS]):
        expected = reference.logprobs(answer, None)
        noise = max(noise, *(abs(x - y) for x, y in zip(expected, answer.logprobs, strict=True)))
    assert noise < MOST, f"the engine's base model differs from transformers' by {noise:.2g} nats"
    return max(TOLERANCE, TIMES * noise)
