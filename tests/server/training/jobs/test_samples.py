"""What is kept of a job's samples, on both databases: once, within a limit, the most telling longest."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from server.core.errors import BadRequest
from server.db.database import Database
from server.db.training_tables import JOB_SAMPLES
from server.training.jobs.sampled_group import SampledCompletion, SampledGroup
from server.training.jobs.samples import MAX_GROUP_BYTES, list_samples, sample_id
from tests.server.support.training_process import TrainingProcess

GROUP_BYTES = 1000


def group(text: str = "", **fields: Any) -> SampledGroup:
    """A group of about GROUP_BYTES bytes unless its text is longer."""
    completion = SampledCompletion(text=text or "x" * 700, tokens=3, finished=True, reward=1.0)
    return SampledGroup(messages=[{"role": "user", "content": "hi"}], completions=[completion], **fields)


def running(gateway: TrainingProcess, worker: str = "w") -> str:
    """A job that `worker` has."""
    job_id = gateway.new_job()
    assert gateway.claimed(worker) == [job_id]
    return job_id


def kept(gateway: TrainingProcess, job_id: str) -> list[tuple[int, str, int]]:
    """(step, split, place) of every sample."""
    columns = (JOB_SAMPLES.c.step, JOB_SAMPLES.c.split, JOB_SAMPLES.c.place)
    rows = sa.select(*columns).where(JOB_SAMPLES.c.job_id == job_id).order_by(*columns)
    return [tuple(row) for row in gateway.do(lambda to: to.execute(rows).all())]


def steps_of(gateway: TrainingProcess, job_id: str, **query: Any) -> list[int]:
    """The steps of a page of samples, in its order."""
    asked = {"step": None, "after": None, "limit": 100, "order": "desc", **query}
    return [row.step for row in gateway.do(lambda to: list_samples(to, job_id, **asked))[0]]


def test_samples_are_stored_with_their_step_once(gateway: TrainingProcess) -> None:
    job_id = running(gateway)
    samples = [group(), group(split="valid"), group()]
    gateway.report("w", job_id, 1, samples=samples)
    gateway.report("w", job_id, 1, samples=samples)
    assert kept(gateway, job_id) == [(1, "train", 0), (1, "train", 1), (1, "valid", 0)]


def test_a_report_that_is_refused_stores_none(gateway: TrainingProcess) -> None:
    job_id = running(gateway)
    with pytest.raises(BadRequest) as long:
        gateway.report("w", job_id, 1, samples=[group(), group("x" * MAX_GROUP_BYTES)])
    assert (long.value.code, long.value.param) == ("invalid_value", "samples[1]")
    with pytest.raises(BadRequest, match=r"samples\[0\] cannot be written as JSON"):
        gateway.report("w", job_id, 1, samples=[group(item={"half": "\ud800"})])
    with pytest.raises(BadRequest):
        gateway.report("w", job_id, 1, samples=[group()], vector="not base64!")
    with pytest.raises(BadRequest, match="step is 2"):
        gateway.report("w", job_id, 2, samples=[group()])
    assert kept(gateway, job_id) == []
    gateway.report("w", job_id, 1, samples=[group("\0 \u00e9 \U0001f600")])
    (row,) = gateway.do(lambda to: list_samples(to, job_id, step=None, after=None, limit=9, order="asc"))[0]
    assert SampledGroup.model_validate_json(row.data).completions[0].text == "\0 \u00e9 \U0001f600"


def test_pages_go_through_the_steps_in_either_order(gateway: TrainingProcess) -> None:
    job_id, other = running(gateway), running(gateway)
    for step in (1, 2, 3):
        gateway.report("w", job_id, step, samples=[group(), group()])
        gateway.report("w", other, step, samples=[group()])
    assert steps_of(gateway, job_id) == [3, 3, 2, 2, 1, 1]
    assert steps_of(gateway, job_id, order="asc", limit=3) == [1, 1, 2]
    assert steps_of(gateway, job_id, step=2) == [2, 2]
    for order in ("asc", "desc"):
        seen: list[Any] = []
        after, more = None, True
        while more:
            rows, more = gateway.do(
                lambda to, after=after, order=order: list_samples(
                    to, job_id, step=None, after=after, limit=1, order=order
                )
            )
            seen += rows
            after = sample_id(rows[-1].step, rows[-1].id)
        assert [row.step for row in seen] == sorted((1, 1, 2, 2, 3, 3), reverse=order == "desc")
        assert [row.place for row in seen] == [0, 1] * 3
    for wrong in ("ftsample-1", f"ftevent-{1:016x}", sample_id(1, 1)[:-1] + "g", sample_id(2**31, 1), "\0"):
        with pytest.raises(BadRequest, match="expected the id of a sample"):
            steps_of(gateway, job_id, after=wrong)


def test_ids_do_not_show_how_many_samples_other_jobs_have(gateway: TrainingProcess) -> None:
    job_id, other = running(gateway), running(gateway)
    for step in (1, 2, 3):
        gateway.report("w", job_id, step, samples=[group(), group()])
        gateway.report("w", other, step, samples=[group()] * step)
    rows, _ = gateway.do(lambda to: list_samples(to, job_id, step=None, after=None, limit=9, order="asc"))
    firsts = [row.id for row in rows[::2]]
    # The samples of two steps are a few rows of the other job apart.
    assert min(abs(one - next_) for one, next_ in pairwise(firsts)) > 2**16
    assert [row.id for row in rows[1::2]] == [first + 1 for first in firsts]


def test_samples_that_the_database_numbered_keep_their_ids_and_are_paged_through(gateway: TrainingProcess) -> None:
    job_id = running(gateway)
    for step in (1, 2):
        gateway.report("w", job_id, step, samples=[group(), group()])
    with gateway.database.write() as connection:
        numbers = connection.execute(sa.select(JOB_SAMPLES.c.id).order_by(JOB_SAMPLES.c.step, JOB_SAMPLES.c.place))
        for old, number in enumerate(numbers.scalars().all(), 7):
            connection.execute(JOB_SAMPLES.update().where(JOB_SAMPLES.c.id == number).values(id=old))
    gateway.report("w", job_id, 3, samples=[group(), group()])
    found: list[tuple[int, int]] = []
    after, more = None, True
    while more:
        rows, more = gateway.do(
            lambda to, after=after: list_samples(to, job_id, step=None, after=after, limit=1, order="desc")
        )
        found += [(row.step, row.place) for row in rows]
        after = sample_id(rows[-1].step, rows[-1].id)
    assert found == [(3, 0), (3, 1), (2, 0), (2, 1), (1, 0), (1, 1)]
    assert after == sample_id(1, 8)


def test_a_job_beyond_its_limit_keeps_fewer_prompts_of_every_step(database: Database) -> None:
    gateway = TrainingProcess(database, most_sample_bytes=10 * GROUP_BYTES)
    job_id, other = running(gateway), running(gateway)
    gateway.report("w", other, 1, samples=[group()] * 4)
    for step in range(1, 7):
        gateway.report("w", job_id, step, samples=[group()] * 4)
    counts = Counter(step for step, _, _ in kept(gateway, job_id))
    # The last step is whole, and none of the others is without its first.
    assert counts[6] == 4 and sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert all(place == 0 for step, _, place in kept(gateway, job_id) if step < 4)
    total = sa.select(sa.func.sum(JOB_SAMPLES.c.bytes)).where(JOB_SAMPLES.c.job_id == job_id)
    assert gateway.do(lambda to: to.execute(total).scalar_one()) <= 10 * GROUP_BYTES
    assert len(kept(gateway, other)) == 4
    for step in range(7, 30):
        gateway.report("w", job_id, step, samples=[group()] * 4)
    steps = sorted({step for step, _, _ in kept(gateway, job_id)})
    assert steps == list(range(steps[0], 30)) and len(steps) >= 7


def test_none_are_kept_where_none_are_wanted(database: Database) -> None:
    gateway = TrainingProcess(database, most_sample_bytes=0)
    job_id = running(gateway)
    gateway.report("w", job_id, 1, samples=[group()])
    assert kept(gateway, job_id) == []
