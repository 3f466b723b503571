"""How jobs end, or wait, when rewards run out: by what graders of the tenant's own say, step by step."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from adapters.factors.factors import Factors
from server.db.training_tables import JOBS
from tests.server.support.sampling_engine import NAME
from tests.server.support.site import Line, Site, rows, site
from tests.server.training.graders.endpoint_app import endpoint_app

# Steps of 2 prompts with 4 completions each.
TINY = {
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 2,
    "epochs": 50,
    "learning_rate": 0.1,
    "dtype": "float32",
}
HELD_OUT = [row | {"place": place} for place, row in enumerate(rows(4))]
# Of (place of a held-out row, None of a training row; how often that row, or any training row, was graded before):
# a score, or None for no answer.
Reply = Callable[[int | None, int], float | None]


class Graded:
    """A grader that `reply` decides for."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._counts, self._lock = reply, Counter[int | None](), threading.Lock()

    def __call__(self, body: Any) -> Any:
        place = body["item"].get("place")
        with self._lock:
            count = self._counts[place]
            self._counts[place] += 1
        score = self._reply(place, count)
        return (500, {}) if score is None else (200, {"score": score})


async def create(here: Site, url: str, *, held_out: bool = True, formula: str | None = None, **settings: Any) -> str:
    grader: dict[str, Any] = {"type": "endpoint", "url": url}
    if formula is not None:
        grader = {"type": "multi", "graders": {"x": grader | {"name": "x"}}, "calculate_output": formula}
    validation = {"validation_file": await here.file(HELD_OUT)} if held_out else {}
    job = await here.client.fine_tuning.jobs.create(
        model=NAME,
        training_file=await here.file(rows(10)),
        method={"type": "reinforcement", "reinforcement": {"grader": grader}},
        seed=1,
        **validation,
        extra_body={"tinylora": TINY | {"validation_fraction": 0} | settings},
    )
    return job.id


async def step_of(here: Site, adapter: str) -> int:
    """The step that an adapter says it is of; its bytes are those of that step."""
    about = (await here.http.get(f"/v1/adapters/{adapter}")).json()
    step = int(about["metadata"]["step"])
    vector = here.vectors(about["metadata"]["fine_tuning_job"])[step]
    assert about["sha256"] == hashlib.sha256(np.array(vector, "<f4").tobytes()).hexdigest()
    return step


def solved_behind(step: int, start: float = 0.5) -> Reply:
    """Rewards of training differ until `step` is taken, then all are the highest; so are the held-out ones, which are
    `start` before training."""

    def reply(place: int | None, count: int) -> float:
        if place is not None:
            return 1.0 if count else start
        return 1.0 if count >= 8 * step else count % 8 / 8

    return reply


@pytest.mark.parametrize(
    ("settings", "result"),
    [
        pytest.param({"eval_interval": 20}, 6, id="no evaluation since the start"),
        pytest.param({"eval_interval": 2}, 6, id="evaluated"),
        pytest.param({"eval_interval": 20, "held_out": False}, 6, id="no held-out rows"),
    ],
)
async def test_a_job_that_has_solved_its_task_succeeds(
    tmp_path: Path, path: Path, factors: Factors, settings: dict[str, Any], result: int
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(solved_behind(3))) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=20, max_flat_steps=3, **settings)
            async with here.worker():
                job = await here.wait(job_id, "succeeded")
        assert await step_of(here, job.fine_tuned_model) == result
        texts = [event.message for event in await here.events(job_id)]
        assert "Ended before step 20: every completion of a prompt now gets the same reward." in texts


async def test_a_job_that_solved_its_training_rows_succeeds_where_the_held_out_ones_were_right_before(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(solved_behind(3, start=1.0))) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=20, max_flat_steps=3, eval_interval=20)
            async with here.worker():
                job = await here.wait(job_id, lambda job: job.status in ("failed", "succeeded"))
        assert job.status == "succeeded"
        assert await step_of(here, job.fine_tuned_model) == 6


async def test_a_reward_of_more_than_1_solves_nothing_where_the_highest_is_not_known(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    """The grader gives up to 10: 9 before training, then 3 for everything."""

    def reply(place: int | None, count: int) -> float:
        if place is not None:
            return 3.0 if count else 9.0
        return 3.0 if count >= 16 else 3.0 + count % 8

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=20, max_flat_steps=3, eval_interval=20)
            async with here.worker():
                job = await here.wait(job_id, lambda job: job.status in ("failed", "succeeded"))
        assert job.error.code == "constant_rewards" and "the mean is 3" in job.error.message


async def test_a_job_that_lost_what_it_was_rewarded_for_fails_and_keeps_its_last_step(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    def reply(place: int | None, count: int) -> float:
        if place is not None:
            return 0.0 if count else 0.5
        return 0.0 if count >= 16 else count % 8 / 8

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=20, max_flat_steps=3, eval_interval=20)
            async with here.worker():
                job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
        (kept,) = (await here.client.fine_tuning.jobs.checkpoints.list(job_id)).data
        assert kept.step_number == 5


async def test_a_grader_that_stops_answering_pauses_a_job_which_then_goes_on(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    is_down = True

    def reply(place: int | None, count: int) -> float | None:
        return None if is_down and place is None and count >= 16 else count % 8 / 8

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=4, eval_interval=4)
            async with here.worker():
                job = await here.wait(job_id, "paused")
                assert job.model_dump()["step"] == 2
                warning = [event.message for event in await here.events(job_id) if event.level == "warn"][-1]
                assert warning.startswith("Paused behind step 2: Not one completion of step 3")
                assert "status 500" in warning and warning.endswith("Resume the job when it answers again.")
                is_down = False
                await here.client.fine_tuning.jobs.resume(job_id)
                job = await here.wait(job_id, "succeeded")
        assert job.model_dump()["step"] == 4


async def test_an_outage_in_which_the_engine_refuses_a_prompt_pauses_a_job_too(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:

        def reply(place: int | None, count: int) -> float | None:
            if place is None and count == 15:
                here.engine.refused = [400]
            return None if place is None and count >= 16 else count % 8 / 8

        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, held_out=False, max_steps=4)
            async with here.worker():
                job = await here.wait(job_id, "paused")
        assert job.model_dump()["step"] == 2
        warning = [event.message for event in await here.events(job_id) if event.level == "warn"][-1]
        assert "status 500" in warning and "status 400" not in warning


async def test_an_evaluation_that_was_graded_in_part_chooses_nothing(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    def reply(place: int | None, count: int) -> float | None:
        if place is None:
            return count % 8 / 8
        # Behind step 2 three rows of four get no answer, in four attempts; behind step 4 all do.
        if place > 0:
            return 0.25 if count == 0 else None if count < 5 else 0.5
        return (0.25, 1.0, 0.5)[count]

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=4, eval_interval=2)
            async with here.worker():
                job = await here.wait(job_id, "succeeded")
        assert await step_of(here, job.fine_tuned_model) == 4
        events = await here.events(job_id)
        (warning,) = [event for event in events if event.data.get("warning") == "evaluation_outage"]
        assert "75% of the held-out rows" in warning.message and "status 500" in warning.message
        steps = {event.data["step"]: event.data for event in events if event.type == "metrics"}
        assert "valid_reward_mean" not in steps[2] and steps[2]["scores"]["valid_reward_mean"] is None
        assert steps[2]["errors"] == {"endpoint_grader_server_error": 3}
        assert steps[4]["valid_reward_gain"] == 0.25


@pytest.mark.parametrize(
    ("replies", "start", "gain"),
    [
        # Of 0 there is no 1 / x. The start, the step that is not graded, and the last one.
        pytest.param((1.0, 0.0, 2.0), "-1 before training", 0.5, id="a step"),
        pytest.param((0.0, 1.0, 2.0), None, None, id="the start"),
    ],
)
async def test_an_evaluation_of_which_nothing_was_graded_is_not_better_than_rewards_below_0(
    tmp_path: Path, path: Path, factors: Factors, replies: tuple[float, ...], start: str | None, gain: float | None
) -> None:
    def reply(place: int | None, count: int) -> float:
        return 1.0 + count % 8 if place is None else replies[count]

    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(reply)) as endpoint:
            job_id = await create(here, endpoint.url, formula="0 - 1 / x", max_steps=4, eval_interval=2)
            async with here.worker():
                job = await here.wait(job_id, "succeeded")
        assert await step_of(here, job.fine_tuned_model) == 4
        events = await here.events(job_id)
        steps = {event.data["step"]: event.data for event in events if event.type == "metrics"}
        assert steps[4]["valid_reward_mean"] == -0.5
        assert steps[4].get("valid_reward_gain") == gain
        told = [event.message for event in events if event.data.get("warning") == "evaluation_ungraded"]
        if start is None:
            assert not told and steps[2]["valid_reward_mean"] == -1
            assert [event.message for event in events if "before training" in event.message] == []
        else:
            assert len(told) == 1 and "formula_parse_error" in str(steps[2]["errors"])
            assert "valid_reward_mean" not in steps[2]
            assert any(start in event.message for event in events)


async def test_a_job_whose_grader_has_a_part_of_a_name_that_was_taken_later_goes_on(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(lambda place, count: count % 8 / 8)) as endpoint:
            job_id = await create(here, endpoint.url, formula="x", max_steps=1)
            with here.database.write() as connection:
                stored = connection.execute(sa.select(JOBS.c.method).where(JOBS.c.id == job_id)).scalar_one()
                method = json.loads(stored)
                grader = method["reinforcement"]["grader"]
                grader |= {"graders": {"loss_error": grader["graders"]["x"]}, "calculate_output": "loss_error"}
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(method=json.dumps(method)))
            async with here.worker():
                job = await here.wait(job_id, lambda job: job.status in ("failed", "succeeded"))
        assert job.status == "succeeded"


async def test_a_cancelled_job_keeps_its_last_step(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(lambda place, count: count % 8 / 8)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=1000, eval_interval=1000)
            async with here.worker():
                await here.wait(job_id, lambda job: (job.step or 0) >= 2)
                job = await here.client.fine_tuning.jobs.cancel(job_id)
        step = job.model_dump()["step"]
        (kept,) = (await here.client.fine_tuning.jobs.checkpoints.list(job_id)).data
        assert kept.step_number == step
        assert await step_of(here, kept.fine_tuned_model_checkpoint) == step


async def test_a_worker_killed_before_it_could_fail_a_job_leaves_it_to_the_next(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    async with site(tmp_path, path, factors, endpoint_hosts="localhost") as here:
        with endpoint_app(Graded(lambda place, count: 0.5)) as endpoint:
            job_id = await create(here, endpoint.url, max_steps=3, eval_interval=3)
            lost = Line(here.app)
            lost.loses = "/finish"
            http = httpx.AsyncClient(transport=lost, base_url="http://localhost")
            async with http, here.worker("killed", http=http):
                await here.wait(job_id, lambda job: job.step == 3)
            here.expire_lease(job_id)
            async with here.worker("next"):
                job = await here.wait(job_id, lambda job: job.status == "failed")
        assert job.error.code == "constant_rewards"
