from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from adapters.factors.factors import Factors
from server.training.jobs.config import LearningRateSchedule
from server.training.worker.learning_rate_schedule import share_of_rate
from tests.server.support.site import SIMILAR, rows, site


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("total", [1, 7])
def test_the_rate_falls_as_that_of_transformers(schedule: LearningRateSchedule, total: int) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=0, num_training_steps=total)
    for step in range(1, total + 1):
        assert share_of_rate(schedule, step, total) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


async def test_a_job_steps_by_its_schedule_and_another_worker_goes_on_where_the_rate_was(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    settings = {"batch_size": 2, "group_size": 4, "max_completion_tokens": 2, "learning_rate": 0.08, "max_steps": 4}
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(
            rows(10), SIMILAR, **settings, epochs=50, learning_rate_multiplier=0.5, learning_rate_schedule="linear"
        )
        async with here.worker("killed"):
            await here.wait(job_id, lambda job: (job.step or 0) >= 2)
        here.expire_lease(job_id)
        async with here.worker("last"):
            await here.wait(job_id, "succeeded")
        metrics = [event.data for event in await here.events(job_id) if event.type == "metrics"]
        rates = {data["step"]: data["learning_rate"] for data in metrics if data["step"]}
        assert rates == pytest.approx({1: 0.04, 2: 0.03, 3: 0.02, 4: 0.01})
