"""The unit of learning rates, against models whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.probe import distance_per_nat
from tests.server.support.site import CONTAINS, rows, site
from tests.server.training.worker.test_job import SMALL, WORD

RECIPE = Recipe(groups=13, u=2)


def start(size: float = 0.0) -> Adapter:
    return Adapter.from_vector(torch.full((RECIPE.groups, RECIPE.u), size), RECIPE, "0" * 64, "float32")


@pytest.mark.parametrize("slope", [1e-3, 0.1, 5.0, 400.0])
@pytest.mark.parametrize("center", [0.0, 0.3])
async def test_the_distance_is_one_over_the_slope_of_a_linear_model(slope: float, center: float) -> None:
    """Log-probabilities that fall by `slope` nats for each unit of the first number: one nat is 1 / slope away."""

    async def score(adapter: Adapter) -> list[list[float]]:
        return [[-1.0 - slope * adapter.vector()[0, 0].item()] * 3, [-2.0 - slope * adapter.vector()[0, 0].item()]]

    measured = await distance_per_nat(start(center), score, seed=1)
    assert measured == pytest.approx(1 / slope, rel=1e-2)


async def test_with_independent_numbers_it_falls_with_the_root_of_their_count() -> None:
    generator = torch.Generator().manual_seed(0)
    slopes_TN = torch.randn(500, RECIPE.num_parameters, generator=generator)

    async def score(adapter: Adapter) -> list[list[float]]:
        return (slopes_TN @ adapter.vector().flatten()[:, None]).T.tolist()

    measured = await distance_per_nat(start(), score, seed=1)
    assert measured == pytest.approx(1 / math.sqrt(RECIPE.num_parameters), rel=0.15)


async def test_it_is_measured_where_a_far_vector_gives_no_numbers() -> None:
    async def score(adapter: Adapter) -> list[list[float]]:
        far = adapter.vector()[0, 0].abs().item() > 1e-4
        return [[math.nan if far else 1000 * adapter.vector()[0, 0].item()]]

    assert await distance_per_nat(start(), score, seed=1) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("told", [-1.0, math.nan])
async def test_a_model_that_nothing_moves_has_none(told: float) -> None:
    async def score(adapter: Adapter) -> list[list[float]]:
        return [[told, told]]

    assert await distance_per_nat(start(), score, seed=1) is None


@pytest.mark.parametrize("is_supervised", [False, True])
async def test_the_automatic_rate_is_measured_and_said_and_outlives_a_worker(
    tmp_path: Path, path: Path, factors: Factors, is_supervised: bool
) -> None:
    """Ten times the singular values make every number count ten times as much; half the rate is half of it."""
    settings = {**SMALL, "learning_rate": "auto", "max_steps": 3}
    data = rows(12, WORD)
    if is_supervised:
        data = [{"messages": [*row["messages"], {"role": "assistant", "content": f"{WORD} w30"}]} for row in data]
        for name in ("group_size", "max_completion_tokens"):
            del settings[name]
    grader = () if is_supervised else (CONTAINS,)
    async with site(tmp_path, path, factors) as here:
        whole = await here.job(data, *grader, **settings)
        half = await here.job(data, *grader, **settings, learning_rate_multiplier=0.5)
        async with here.worker("killed"):
            await here.wait(half, lambda job: (job.step or 0) >= 1)
        here.expire_lease(whole)
        here.expire_lease(half)
        async with here.worker("last"):
            for job_id in (whole, half):
                await here.wait(job_id, "succeeded")
        rates = {}
        for job_id in (whole, half):
            events = await here.events(job_id)
            rates[job_id] = {
                event.data["learning_rate"] for event in events if event.type == "metrics" if event.data["step"]
            }
            assert len(rates[job_id]) == 1
            assert sum("The learning rate is" in event.message for event in events) == 1
        assert rates[half].pop() == pytest.approx(rates[whole].pop() / 2, rel=0.05)
