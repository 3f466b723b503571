"""The samples that are kept of a job: what its vector said in each step, and what that was worth.

A worker reports the prompts of a step that tell most, the most telling first, so their place in the report is their
rank. When a job has more bytes of samples than it may, the lowest ranks of all earlier steps go first, of equal ranks
the oldest; so a long job keeps fewer prompts of every step instead of none of most, and its last step is whole.

The rows of a step are numbered from a random number on, so that ids show nothing of other jobs.

Functions of a connection that holds the job's row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, quoted
from server.core.ids import first_number
from server.db.training_tables import JOB_SAMPLES
from server.training.jobs.sampled_group import SampledGroup, Split

PREFIX = "ftsample-"
MAX_GROUP_BYTES = 2**17
# Removed by one report at most.
_MOST_REMOVED = 1000
_ID = re.compile(rf"{PREFIX}([0-7][0-9a-f]{{7}})([0-7][0-9a-f]{{15}})")

Order = Literal["asc", "desc"]


def sample_id(step: int, number: int) -> str:
    """The id of a sample, from its step and the number of its row."""
    return f"{PREFIX}{step:08x}{number:016x}"


def store_samples(
    connection: Connection, job_id: str, step: int, groups: Sequence[SampledGroup], most_bytes: int
) -> None:
    """Store the samples of one step, and remove others if the job then has more than `most_bytes`; 0 keeps none.

    BadRequest for a group of more than MAX_GROUP_BYTES as JSON.
    """
    if not groups or not most_bytes:
        return
    created_at, first, places = now(), first_number(), Counter[Split]()
    rows = []
    for index, group in enumerate(groups):
        data = _encoded(group, f"samples[{index}]")
        rows.append(
            {
                "id": first + index,
                "job_id": job_id,
                "step": step,
                "split": group.split,
                "place": places[group.split],
                "created_at": created_at,
                "bytes": len(data),
                "data": data.decode(),
            }
        )
        places[group.split] += 1
    connection.execute(JOB_SAMPLES.insert(), rows)
    _thin(connection, job_id, step, most_bytes)


def list_samples(
    connection: Connection, job_id: str, *, step: int | None, after: str | None, limit: int, order: Order
) -> tuple[Sequence[Row[Any]], bool]:
    """(samples of a job after the id `after`; whether there are more). Steps in `order`, within a step by rank.

    step: only of this one; None, of all.
    """
    rows = sa.select(JOB_SAMPLES).where(JOB_SAMPLES.c.job_id == job_id)
    if step is not None:
        rows = rows.where(JOB_SAMPLES.c.step == step)
    by_step = JOB_SAMPLES.c.step.asc() if order == "asc" else JOB_SAMPLES.c.step.desc()
    if after is not None:
        match = _ID.fullmatch(after)
        if match is None:
            raise BadRequest(
                f"after is {quoted(after)}, expected the id of a sample", param="after", code="invalid_value"
            )
        last_step, last_id = int(match[1], 16), int(match[2], 16)
        is_later = JOB_SAMPLES.c.step > last_step if order == "asc" else JOB_SAMPLES.c.step < last_step
        rows = rows.where(sa.or_(is_later, sa.and_(JOB_SAMPLES.c.step == last_step, JOB_SAMPLES.c.id > last_id)))
    found = connection.execute(rows.order_by(by_step, JOB_SAMPLES.c.id).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def _encoded(group: SampledGroup, param: str) -> bytes:
    """The group as JSON in UTF-8, without its split, which has a column."""
    try:
        data = group.model_dump_json(exclude={"split"}).encode()
    except ValueError as error:  # half of a surrogate pair in what a row had, or what JSON has no word for
        raise BadRequest(f"{param} cannot be written as JSON: {error}", param=param, code="invalid_value") from error
    if len(data) > MAX_GROUP_BYTES:
        raise BadRequest(
            f"{param} has {len(data)} bytes as JSON, expected at most {MAX_GROUP_BYTES}",
            param=param,
            code="invalid_value",
        )
    return data


def _thin(connection: Connection, job_id: str, step: int, most_bytes: int) -> None:
    """Remove samples of earlier steps than `step` until the job has at most `most_bytes` of them."""
    of_job = JOB_SAMPLES.c.job_id == job_id
    excess = connection.execute(sa.select(sa.func.sum(JOB_SAMPLES.c.bytes)).where(of_job)).scalar_one() - most_bytes
    if excess <= 0:
        return
    earlier = sa.select(JOB_SAMPLES.c.id, JOB_SAMPLES.c.bytes).where(of_job, JOB_SAMPLES.c.step < step)
    lowest_first = earlier.order_by(JOB_SAMPLES.c.place.desc(), JOB_SAMPLES.c.step, JOB_SAMPLES.c.id).limit(
        _MOST_REMOVED
    )
    removed = []
    for row in connection.execute(lowest_first):
        if excess <= 0:
            break
        removed.append(row.id)
        excess -= row.bytes
    connection.execute(JOB_SAMPLES.delete().where(JOB_SAMPLES.c.id.in_(removed)))
