"""Jobs with a mistake in them: their events say which, in the first steps, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.factors.factors import Factors
from tests.server.support.site import CONTAINS, SIMILAR, Site, rows, site

SMALL = {
    "batch_size": 4,
    "group_size": 6,
    "max_completion_tokens": 4,
    "learning_rate": 0.01,
    "validation_fraction": 0.2,
    "eval_interval": 10,
    "epochs": 50,
    "max_steps": 3,
}


async def warnings(here: Site, job_id: str) -> dict[str, Any]:
    """The warnings of a job by what they are of, each of which there is once."""
    told = [event for event in await here.events(job_id) if event.level == "warn" and "warning" in event.data]
    assert len({event.data["warning"] for event in told}) == len(told)
    return {event.data["warning"]: event for event in told}


async def of_job(here: Site, grader: dict[str, Any], data: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The warnings of a job that was run to its end."""
    job_id = await here.job(data, grader, **SMALL | settings)
    async with here.worker():
        await here.wait(job_id, lambda job: job.status in ("succeeded", "failed"))
    return await warnings(here, job_id)


async def test_a_task_that_nobody_can_do(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        told = await of_job(here, CONTAINS, rows(12, "a word that there is not"))
        assert told["constant_rewards"].data["step"] == 1
        assert "too hard for the model, or the grader accepts nothing" in told["constant_rewards"].message
        assert "cut off by max_completion_tokens, perhaps before the answer" in told["constant_rewards"].message


@pytest.mark.parametrize(
    ("mistake", "warning", "said"),
    [
        # Compares the whole row's field with a text around it.
        ({"reference": "The answer is {{item.answer}}"}, "constant_rewards", "the grader accepts nothing"),
        ({"operation": "ne", "reference": "w9 and more"}, "constant_rewards", "the grader accepts anything"),
        # Every text contains the empty one, so it says nothing of any.
        ({"reference": "{{item.nothing}}"}, "grader_errors", "failed for 100% of the completions"),
        ({"input": "{{sample.output_json.answer}}"}, "grader_errors", "do not have the format that the grader reads"),
    ],
)
async def test_a_grader_with_a_mistake(
    tmp_path: Path, path: Path, factors: Factors, mistake: dict[str, str], warning: str, said: str
) -> None:
    async with site(tmp_path, path, factors) as here:
        told = await of_job(here, CONTAINS | mistake, [{**row, "nothing": ""} for row in rows(12)])
        assert told[warning].data["step"] == (0 if warning == "grader_errors" else 1)
        assert said in told[warning].message


async def test_a_formula_with_a_mistake(tmp_path: Path, path: Path, factors: Factors) -> None:
    formula = {"type": "multi", "graders": {"near": SIMILAR}, "calculate_output": "1 / (near - near)"}
    async with site(tmp_path, path, factors) as here:
        told = await of_job(here, formula, rows(12))
        assert told["grader_errors"].data["step"] == 0, "before training"
        message = told["grader_errors"].message
        assert "failed for 100% of the completions, mostly by formula_parse_error" in message
        assert "correct the grader" in message


async def test_answers_without_the_box_that_is_looked_for(tmp_path: Path, path: Path, factors: Factors) -> None:
    boxed = {"type": "math", "reference": "{{item.answer}}", "extract": ["boxed"]}
    multi = {"type": "multi", "graders": {"right": boxed, "near": SIMILAR}, "calculate_output": "right + near"}
    async with site(tmp_path, path, factors) as here:
        here.engine.end_bias = 9.0
        for grader in (boxed, multi):
            told = await of_job(here, grader, rows(12, "7"))
            assert told["missing_answers"].data["step"] == 1
            assert "looks for \\boxed{...}, and one of them ends in '" in told["missing_answers"].message
            assert "truncated_completions" not in told
        # What is cut off could not say it, and that is told.
        here.engine.end_bias = -9.0
        told = await of_job(here, boxed, rows(12, "7"))
        assert "truncated_completions" in told and "missing_answers" not in told


async def test_a_rate_a_hundred_times_too_large(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        assert "learning_rate_too_large" not in await of_job(here, SIMILAR, rows(12))
        told = await of_job(here, SIMILAR, rows(12), learning_rate=100 * SMALL["learning_rate"])
        assert told["learning_rate_too_large"].data["step"] == 1
        assert "nats per token" in told["learning_rate_too_large"].message


async def test_a_job_that_is_killed_is_told_once(tmp_path: Path, path: Path, factors: Factors) -> None:
    async with site(tmp_path, path, factors) as here:
        job_id = await here.job(rows(12, "a word that there is not"), CONTAINS, **SMALL | {"max_steps": 6})
        for step in (1, 3):
            async with here.worker(f"killed-{step}"):
                await here.wait(job_id, lambda job, step=step: (job.step or 0) >= step)
            here.expire_lease(job_id)
        async with here.worker("last"):
            await here.wait(job_id, "failed")
        told = await warnings(here, job_id)
        assert {name: event.data["step"] for name, event in told.items()} == {
            "constant_rewards": 1,
            "truncated_completions": 1,
        }
