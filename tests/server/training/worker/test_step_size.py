"""How many tokens of rows a step or an evaluation reads: refused where a worker could not hold them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.factors.factors import Factors
from server.core.errors import BadRequest
from server.training.worker.dataset import Row, Sampler
from server.training.worker.job_data import PORTION_TOKENS, Example, JobData
from server.training.worker.row_store import RowStore
from server.training.worker.step_size import check_rows
from tests.server.support.site import SIMILAR, Site, site


@pytest.mark.parametrize(
    ("tokens", "rows", "fits"), [([5, 9, 1], 2, 1), ([5, 9, 1], 4, 1), ([5, 5, 5], 3, 2), ([11, 1], 1, 0), ([3], 9, 3)]
)
def test_the_longest_rows_are_what_counts(tokens: list[int], rows: int, fits: int) -> None:
    with pytest.raises(BadRequest) as caught:
        check_rows(tokens, rows, "batch_size", "a step", 10)
    assert (f"use a batch_size of at most {fits}" if fits else "use shorter rows") in caught.value.message
    check_rows(tokens, fits, "batch_size", "a step", 10)


@pytest.fixture
async def here(tmp_path: Path, path: Path, factors: Factors) -> AsyncIterator[Site]:
    async with site(tmp_path, path, factors) as here:
        yield here


async def failed(here: Site, job_id: str, most: int) -> Any:
    """The error of the job, on the server when it was started again with this setting."""
    settings = {"max_step_tokens": most}
    async with site(here.log_dir.parent, here.path, here.factors, **settings) as again, again.worker(can_load=False):
        return (await again.wait(job_id, lambda job: job.status == "failed")).error


USER, ANSWER = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
TALKS = [{"messages": [USER, ANSWER] * 3}] * 8


async def test_a_step_and_an_evaluation_read_no_more_than_the_server_allows(here: Site) -> None:
    error = await failed(here, await here.job(TALKS, batch_size=8, validation_fraction=0.0), 200)
    assert (error.code, error.param) == ("step_too_large", "tinylora.batch_size"), error
    assert "a step of 8 rows may have" in error.message and "use a batch_size of at most" in error.message
    error = await failed(here, await here.job(TALKS), 20)
    assert error.code == "invalid_training_file" and "line 1: up to messages[" in error.message, error
    graded = [{"messages": [USER], "answer": "1"}] * 40
    settings = {"batch_size": 1, "validation_fraction": 0.5, "max_completion_tokens": 2}
    error = await failed(here, await here.job(graded, SIMILAR, **settings), 60)
    assert (error.code, error.param) == ("step_too_large", "tinylora.eval_rows"), error
    assert "an evaluation of 20 rows" in error.message


async def test_a_job_that_is_under_way_goes_on_under_a_lower_limit(here: Site) -> None:
    job_id = await here.job(TALKS, batch_size=8, validation_fraction=0.0, max_steps=2)
    async with here.worker(can_load=False):
        await here.wait(job_id, lambda job: job.status != "validating_files")
    here.expire_lease(job_id)
    async with site(here.log_dir.parent, here.path, here.factors, max_step_tokens=20) as again, again.worker("next"):
        await again.wait(job_id, "succeeded")


async def test_held_out_rows_are_read_in_portions() -> None:
    long, short = [0] * (PORTION_TOKENS // 8), [0] * 4
    answers = [short, short, long, *[short] * 20, long]

    def make(line: int, text: bytes) -> list[Example]:
        return [Example(line, [0], answers[line - 1], {})]

    with Path(__file__).open("rb") as file:
        rows = RowStore.of(file, (Row(number + 1, (), {}) for number in range(len(answers))), make)
        data = JobData(rows, rows, len(rows), Sampler(1, 1, 0), 1, (), None)
        portions = [[one.line for one in portion] async for portion in data.held_out_portions()]
    assert portions == [list(range(1, 9)), list(range(9, 25))]
