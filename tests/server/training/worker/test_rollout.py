from __future__ import annotations

import math
from pathlib import Path

import httpx
import pytest
import torch

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.forward import score
from server.training.worker.http_retry import GatewayRefused
from server.training.worker.packing import TokenSequence
from server.training.worker.rollout import Group, RolloutClient, RolloutRequest, Sampling, ScoreRequest, seed_of
from tests.adapters.tiny_models import load_model
from tests.server.support.site import IMPATIENT, Line, Site, site

PROMPT = [3, 20, 2, 4]


def adapter_of(factors: Factors, size: float = 0.3) -> Adapter:
    recipe = Recipe()
    v_GU = size * torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(7))
    return Adapter.from_vector(v_GU, recipe, factors.digest, "float32")


async def sample(
    at: Site | httpx.AsyncClient, adapter: Adapter | None, count: int = 4, temperature: float = 1.0, seed: int = 1
) -> Group:
    http = at.http if isinstance(at, Site) else at
    rollouts = RolloutClient(http, retry_policy=IMPATIENT)
    sampling = Sampling(6, temperature)
    return await rollouts.sample(RolloutRequest(PROMPT, count, sampling, adapter, seed, "default"))


async def test_completions_come_from_exactly_the_vector_that_was_sent(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        adapter = adapter_of(factors)
        group = await sample(here, adapter)
        (served,) = here.engine.adapters
        assert served is not None
        assert served.adapter == adapter
        # The engine's log-probabilities are those that the model in training computes.
        model = TrainableAdapters(load_model(path), factors)
        handle = model.add(adapter)
        tokens = score(model, [TokenSequence(handle, PROMPT, one.tokens) for one in group.completions])
        for row, completion in enumerate(group.completions):
            ours = tokens.logprobs_BC[row, : len(completion.tokens)]
            torch.testing.assert_close(ours, torch.tensor(completion.logprobs), atol=1e-4, rtol=0)


async def test_what_was_sampled_is_scored_as_it_was_sampled(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        adapter = adapter_of(factors)
        rollouts = RolloutClient(here.http, retry_policy=IMPATIENT)
        for completion in (await sample(here, adapter)).completions:
            scores = await rollouts.score(ScoreRequest(PROMPT, completion.tokens, adapter, "default"))
            assert scores == pytest.approx(completion.logprobs, abs=1e-4)
        here.engine.refused = [400]
        with pytest.raises(GatewayRefused, match="not now"):
            await rollouts.score(ScoreRequest(PROMPT, [5], adapter, "default"))


async def test_a_rollout_waits_behind_other_requests_and_leaves_no_setting_to_the_model(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        await sample(here, None)
        (body,) = here.engine.received
        assert body["priority"] == 10
        assert (body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
        assert here.engine.adapters == [None]


async def test_the_seed_decides_what_is_drawn(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        first, again, other = [await sample(here, None, seed=seed) for seed in (5, 5, 500)]
        assert first == again
        assert [one.tokens for one in first.completions] != [one.tokens for one in other.completions]


def test_seeds_differ_by_job_purpose_step_and_place() -> None:
    places = [(1, "train", 1, 0), (2, "train", 1, 0), (1, "valid", 1, 0), (1, "train", 2, 0), (1, "train", 1, 1)]
    seeds = {seed_of(*place) for place in places}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**62 for seed in seeds)


async def test_log_probabilities_at_another_temperature_are_not_taken_for_those_of_the_sampler(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        group = await sample(here, None, temperature=0.7)
        assert all(math.isnan(value) for one in group.completions for value in one.logprobs)


@pytest.mark.parametrize("status", [429, 502, 503])
async def test_a_busy_engine_is_asked_again(tmp_path: Path, path: Path, factors: Factors, status: int) -> None:
    async with site(tmp_path, path, factors) as here:
        here.engine.refused = [status] * 5
        group = await sample(here, None)
        assert len(group.completions) == 4
        assert len(here.engine.received) == 6


async def test_a_prompt_that_the_engine_refuses_is_data(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        here.engine.refused = [400]
        group = await sample(here, None)
        assert group.completions == ()
        assert group.error is not None
        assert "400" in group.error
        assert "not now" in group.error


async def test_a_connection_that_fails_is_tried_again(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        line = FlakyLine(here.app)
        async with httpx.AsyncClient(transport=line, base_url="http://localhost") as http:
            group = await sample(http, None)
        assert len(group.completions) == 4
        assert line.cuts == 0


async def test_a_key_that_is_refused_is_not_the_fault_of_a_prompt(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        headers = {"Authorization": "Bearer ", "OpenAI-Organization": "nobody"}
        async with httpx.AsyncClient(transport=Line(here.app), base_url="http://localhost", headers=headers) as http:
            here.engine.refused = [401]
            with pytest.raises(GatewayRefused):
                await sample(http, None)


class FlakyLine(Line):
    """Cut for the first three requests."""

    cuts = 3

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.is_cut, self.cuts = self.cuts > 0, max(0, self.cuts - 1)
        return await super().handle_async_request(request)
