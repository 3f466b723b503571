"""Whole jobs of method evolution, by the numbers that come out of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from adapters.factors.factors import Factors
from server.engine.protocol import ServedAdapter
from tests.server.support.site import CONTAINS, SIMILAR, Site, rows, site
from tests.server.training.worker.test_job import WORD

SMALL = {
    "batch_size": 2,
    "population_size": 8,
    "max_completion_tokens": 2,
    "sigma": 0.2,
    "validation_fraction": 0.2,
    "eval_interval": 2,
    "epochs": 50,
    "max_steps": 4,
    "dtype": "float32",
}


async def evolved(here: Site, grader: Any = CONTAINS, **settings: Any) -> str:
    """The id of a job that nothing disturbs."""
    job_id = await here.job(rows(12, WORD), grader, method="evolution", **SMALL | settings)
    async with here.worker(can_load=False):
        await here.wait(job_id, "succeeded")
    return job_id


def different(served: Sequence[ServedAdapter | None]) -> list[npt.NDArray[np.float32]]:
    """The vectors, each once."""
    vectors = {one.adapter.data: one.adapter.vector().flatten().numpy() for one in served if one is not None}
    return list(vectors.values())


async def test_a_generation_is_mirrored_pairs_that_get_the_same_prompts_and_seeds(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        await evolved(here, SIMILAR, validation_fraction=0.0, max_steps=2)
        first, second = here.engine.received[:16], here.engine.received[16:]
        assert len(second) == 16
        for generation in (first, second):
            asked = {(tuple(body["prompt"]), body["seed"]) for body in generation}
            assert len(asked) == 2
            assert all(body["n"] == 1 for body in generation)
        candidates = different(here.engine.adapters[:16])
        assert len(candidates) == 8
        for one in candidates:
            assert any(np.array_equal(one, -other) for other in candidates)
        # The second generation is around where the first one led.
        assert np.abs(np.mean(different(here.engine.adapters[16:]), axis=0)).max() > 0.01


async def test_sigma_is_measured_by_default_and_remembered(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        settings = {name: value for name, value in SMALL.items() if name != "sigma"} | {"validation_fraction": 0.0}
        multiplied = settings | {"algorithm": "openai_es", "learning_rate_multiplier": 2, "max_completion_tokens": 8}
        job_id = await here.job(rows(12, WORD), SIMILAR, method="evolution", **multiplied)
        async with here.worker(can_load=False):
            await here.wait(job_id, lambda job: (job.step or 0) >= 1)
        here.expire_lease(job_id)
        async with here.worker("another", can_load=False):
            await here.wait(job_id, "succeeded")
        events = await here.events(job_id)
        (said,) = [event.message for event in events if "begins with sigma" in event.message]
        (sigma,) = {event.data["sigma"] for event in events if event.type == "metrics"}
        assert f"sigma {sigma:.3g}" in said
        # The unit of probe.py, times what AUTO_SIGMA_NATS and the multiplier say.
        assert "a candidate does by 0.6 " in said


@pytest.mark.parametrize(
    ("algorithm", "prompt_selection"), [("cma_es", "uniform"), ("openai_es", "uniform"), ("cma_es", "learnable")]
)
async def test_a_job_whose_worker_was_killed_ends_with_the_same_bits(
    tmp_path: Path, path: Path, factors: Factors, algorithm: str, prompt_selection: str
) -> None:
    async with site(tmp_path, path, factors) as here:
        settings = {"algorithm": algorithm, "prompt_selection": prompt_selection}
        undisturbed = here.vectors(await evolved(here, SIMILAR, **settings))
        job_id = await here.job(rows(12, WORD), SIMILAR, method="evolution", **SMALL, **settings)
        await here.train_with_kills(job_id)
        assert here.vectors(job_id)[4] == undisturbed[4]
        assert any(undisturbed[4])


async def test_what_is_evaluated_is_what_would_be_published(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await evolved(here, dtype="bfloat16", max_steps=2, eval_interval=1)
        job = await here.client.fine_tuning.jobs.retrieve(job_id)
        greedy = [
            served.adapter
            for served, body in zip(here.engine.adapters, here.engine.received, strict=True)
            if served is not None and body["temperature"] == 0
        ]
        assert {adapter.dtype for adapter in greedy} == {"bfloat16"}
        published = (await here.http.get(f"/v1/adapters/{job.fine_tuned_model}/vector")).content
        assert len(published) == 26
        assert published in {adapter.data for adapter in greedy} | {bytes(26)}


async def test_events_say_what_a_generation_was_worth(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await evolved(here, SIMILAR)
        metrics = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        assert [data["step"] for data in metrics] == [0, 1, 2, 3, 4]
        assert any(data["candidate_reward_std"] > 0 for data in metrics[1:])
        for data in metrics[1:]:
            assert data["usage"]["samples"] == 16
            assert data["candidate_reward_max"] > data["train_reward_mean"] - 1e-9
            assert -1 <= data["rank_agreement"] <= 1
            assert data["sigma"] > 0
            assert set(data["timing"]["step"]) >= {"sampling", "grading", "full_iteration"}
        checkpoints = (await here.client.fine_tuning.jobs.checkpoints.list(job_id)).data
        assert [point.step_number for point in checkpoints] == [4, 2]


async def test_a_job_goes_on_from_an_adapter_and_stays_within_its_bound(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        start = [0.01 * index for index in range(13)]
        spec = {"name": "start", "vector": start, "dtype": "float32"}
        assert (await here.http.post("/v1/adapters", json=spec)).is_success
        await evolved(here, model="start", max_abs_v=0.05, max_steps=1)
        rounded = np.array(start, dtype=np.float32).clip(-0.05, 0.05)
        np.testing.assert_allclose(different(here.engine.adapters[:1])[0], rounded, atol=1e-6)
        assert np.abs(different(here.engine.adapters[2:18])).max() <= np.float32(0.05)


async def test_rewards_that_never_differ_end_a_job_with_advice_for_a_search(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors) as here:
        settings = SMALL | {"max_steps": 40, "batch_size": 1, "max_flat_steps": 4}
        job_id = await here.job(rows(12, "nothing like it"), CONTAINS, method="evolution", **settings)
        async with here.worker():
            job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
        assert "sigma" in job.error.message
        assert "group_size" not in job.error.message


async def test_graders_that_fail_for_some_leave_the_others_a_step(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(
            rows(12, WORD), SIMILAR, method="evolution", **SMALL | {"validation_fraction": 0, "max_steps": 1}
        )
        here.engine.refused = [400] * 5
        async with here.worker():
            await here.wait(job_id, "succeeded")
        (data,) = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        assert data["errors"] == {"sampling_error": 5}
        assert data["usage"]["samples"] == 11
        assert any(here.vectors(job_id)[1])


async def test_jobs_of_both_methods_share_a_worker(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        alone = here.vectors(await evolved(here, SIMILAR))
        settings = {"batch_size": 4, "group_size": 4, "max_completion_tokens": 2, "max_steps": 3, "epochs": 9}
        jobs = [
            await here.job(rows(12, WORD), SIMILAR, method="evolution", **SMALL),
            await here.job(rows(12, WORD), SIMILAR, **settings),
        ]
        async with here.worker():
            for job_id in jobs:
                await here.wait(job_id, "succeeded")
        assert here.vectors(jobs[0])[4] == alone[4]
