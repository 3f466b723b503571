"""How far the numbers of a vector have to move to move the model, measured: the unit of learning rates.

The same distance means different things for different models, recipes and factors: with more numbers for each module
a vector moves the model further, with larger singular values too. So a rate is given in nats: by how much one step may
change the log-probability of a token. What that is in numbers of v is measured once, before the first step: the
completions of a few prompts are scored by vectors that lie around the start, in every number by +d or by -d at random.

    nats(d) = sqrt(mean over tokens and directions of (log p(token; start + d * signs) - log p(token; start))^2)

For tokens that the model itself sampled its square is twice the KL divergence per token, to second order in d. It grows
in proportion to d where d is small; the d that is measured is one at which it is near MEASURED_NATS, well above what an
engine in bfloat16 adds by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import torch
from torch import Tensor

from adapters.vector.adapter import Adapter

# Of the first step: enough for an error of some ten percent.
ROWS, TOKENS = 8, 64
DIRECTIONS = 4
MEASURED_NATS = 0.2
FIRST_DISTANCE = 0.01
# Beyond these no model is moved, and none that was trained stays what it was.
NEAREST, FARTHEST = 1e-6, 100.0
ROUNDS = 8
Scores = Sequence[Sequence[float]]


async def distance_per_nat(start: Adapter, score: Callable[[Adapter], Awaitable[Scores]], seed: int) -> float | None:
    """The distance of every number of v that changes the log-probability of a token by one nat; None if none does.

    start: where training begins. score: log-probabilities of the same tokens by an adapter; NaN where there is none.
    """
    generator = torch.Generator().manual_seed(seed)
    center_GU = start.vector()
    signs_DGU = torch.randint(0, 2, (DIRECTIONS, *center_GU.shape), generator=generator) * 2.0 - 1.0
    before_T = _flat(await score(start))
    distance, measured = FIRST_DISTANCE, None
    for _ in range(ROUNDS):
        changes = [
            _flat(
                await score(
                    Adapter.from_vector(center_GU + distance * signs_GU, start.recipe, start.factors, "float32")
                )
            )
            - before_T
            for signs_GU in signs_DGU
        ]
        nats = torch.cat(changes).square().nanmean().sqrt().item()
        if 0 < nats < math.inf:
            measured = distance / nats
            if MEASURED_NATS / 2 <= nats <= MEASURED_NATS * 2:
                break
            distance *= min(32.0, max(1 / 32, MEASURED_NATS / nats))
        else:  # NaN and infinity: numbers so large that the model computes none
            distance *= 32.0 if nats == 0 else 1 / 32
        distance = min(FARTHEST, max(NEAREST, distance))
    return measured


def _flat(scores: Scores) -> Tensor:
    return torch.tensor([value for row in scores for value in row], dtype=torch.float64)
