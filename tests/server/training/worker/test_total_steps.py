"""How many steps a job has: by its epochs, its steps, and the rows of its file."""

from __future__ import annotations

from typing import Any

import pytest

from server.training.jobs.config import AUTO_STEPS, JOB_CONFIG, Method
from server.training.worker.dataset import Sampler
from server.training.worker.job_data import total_steps


@pytest.mark.parametrize(
    ("method", "rows", "given", "steps"),
    [
        ("reinforcement", 24, {"max_steps": 50}, 50),
        ("reinforcement", 10_000, {"max_steps": 50}, 50),
        ("reinforcement", 24, {}, AUTO_STEPS),
        ("supervised", 24, {}, AUTO_STEPS),
        ("evolution", 24, {}, AUTO_STEPS),
        ("reinforcement", 16 * 30, {}, 30),
        ("supervised", 16 * 30, {}, 90),
        ("evolution", 8 * 30, {}, 90),
        ("reinforcement", 24, {"epochs": 2}, 3),
        ("reinforcement", 24, {"epochs": 2, "max_steps": 50}, 3),
        ("reinforcement", 24, {"epochs": 100, "max_steps": 50}, 50),
    ],
)
def test_steps_of_a_job(method: Method, rows: int, given: dict[str, Any], steps: int) -> None:
    config = JOB_CONFIG.validate_python({"method": method, **given})
    assert total_steps(config, Sampler(rows, config.batch_size, 0)) == steps
