"""The result file of a job that succeeded: the metrics of its steps as CSV, one row per step.

It is made from the events of the steps, so it says what the owner was shown. Columns are all numbers of any step, named
by their path in the event's data ("scores.train_reward_mean").
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.core.clock import now
from server.core.ids import new_id
from server.db.training_tables import JOB_EVENTS, JOBS
from server.training.files.rows import PREFIX as FILE_PREFIX
from server.training.files.rows import insert_file, location_of
from server.training.files.storage import FileStorage, StoredBytes

PURPOSE = "fine-tune-results"
FILENAME = "step_metrics.csv"
MAX_COLUMNS = 100
FETCHED_STEPS = 500
IN_MEMORY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that is in the storage and has no row yet."""

    id: str
    location: str
    stored: StoredBytes


def store_result(files: FileStorage, tenant_id: int, content: BinaryIO) -> ResultFile:
    """Write the bytes to the storage, and close `content`."""
    file_id = new_id(FILE_PREFIX)
    location = location_of(tenant_id, file_id)
    with content:
        return ResultFile(file_id, location, files.write(content, location))


def step_metrics(connection: Connection, job_id: str) -> BinaryIO:
    """The CSV of a job, UTF-8, with a header line: an open file at its beginning, on disk where it is long.

    Steps are read twice, the first time for the columns, so that a job of a million steps takes no memory.
    """
    names = dict.fromkeys(name for step in _steps(connection, job_id) for name in step)
    columns = ["step", *(name for name in names if name != "step")][:MAX_COLUMNS]
    file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115, the caller closes it
    text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_steps(connection, job_id))
    text.detach()
    file.seek(0)
    return cast(BinaryIO, file)


def _steps(connection: Connection, job_id: str) -> Iterator[dict[str, float]]:
    rows = sa.select(JOB_EVENTS.c.data).where(JOB_EVENTS.c.job_id == job_id, JOB_EVENTS.c.type == "metrics")
    in_parts = connection.execute(rows.order_by(JOB_EVENTS.c.id), execution_options={"yield_per": FETCHED_STEPS})
    for data in in_parts.scalars():
        yield dict(_numbers(json.loads(data)))


def add_result_file(connection: Connection, tenant_id: int, job_id: str, file: ResultFile) -> None:
    """Add the row of a stored file, and its id to the job."""
    insert_file(
        connection,
        id=file.id,
        tenant_id=tenant_id,
        purpose=PURPOSE,
        filename=FILENAME,
        bytes=file.stored.size,
        sha256=file.stored.sha256,
        location=file.location,
        created_at=now(),
    )
    connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(result_files=json.dumps([file.id])))


def _numbers(data: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield path, data
