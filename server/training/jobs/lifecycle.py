"""Training jobs as their owners see them: creating, reading, pausing, resuming and cancelling.

Every change of state is one transaction that locks the job's row first, so it is based on the current state, and events
are in order. Another tenant's job is answered like a missing one.

Functions of a connection. What workers do is in leases.py and progress.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import check_after, is_id
from server.db.database import Database
from server.db.tenant_lock import lock_tenant
from server.db.training_tables import JOB_METADATA, JOBS
from server.endpoints.webhooks import announce
from server.limits.unfinished_work import too_much_unfinished
from server.training.files.rows import file_for_job
from server.training.jobs.checkpoints import publish_last
from server.training.jobs.config import AnyConfig
from server.training.jobs.events import add_event
from server.training.states import ACTIVE, FINISHED, Status

PREFIX = "ftjob-"
# A definition may have megabytes of its own.
MAX_PAGE_CHARS = 4 * 2**20
NO_LEASE: dict[str, None] = {"lease_owner": None, "lease_expires_at": None}


@dataclass(frozen=True, slots=True)
class NewJob:
    """A new job, checked except for its files. init_vector: bytes, float32 little-endian."""

    id: str
    model: str
    factors: str
    training_file: str
    validation_file: str | None
    method: Mapping[str, Any]
    config: AnyConfig
    init_vector: bytes | None
    seed: int
    metadata: Mapping[str, str]
    integrations: Sequence[Mapping[str, Any]]
    adapter_name: str


def create_job(connection: Connection, tenant_id: int, key_id: str | None, job: NewJob, most: int) -> Row[Any]:
    """Create a job; its row. BadRequest when a file cannot be used, TooManyRequests when `most` have not ended."""
    lock_tenant(connection, tenant_id)
    unfinished = sa.select(sa.func.count()).where(JOBS.c.tenant_id == tenant_id, JOBS.c.status.in_(sorted(ACTIVE)))
    if (count := connection.execute(unfinished).scalar_one()) >= most:
        raise too_much_unfinished(
            "jobs", "/v1/fine_tuning/jobs", count, most, "max_tenant_jobs", code="job_limit_reached"
        )
    file_for_job(connection, tenant_id, job.training_file, "training_file")
    if job.validation_file is not None:
        file_for_job(connection, tenant_id, job.validation_file, "validation_file")
    row = connection.execute(
        JOBS.insert()
        .values(
            id=job.id,
            tenant_id=tenant_id,
            key_id=key_id,
            created_at=now(),
            status="validating_files",
            model=job.model,
            factors=job.factors,
            training_file=job.training_file,
            validation_file=job.validation_file,
            method=json.dumps(job.method),
            method_type=job.config.method,
            config=job.config.model_dump_json(),
            init_vector=job.init_vector,
            seed=job.seed,
            metadata=json.dumps(job.metadata),
            integrations=json.dumps(job.integrations),
            adapter_name=job.adapter_name,
            trained_tokens=0,
            result_files="[]",
            attempts=0,
        )
        .returning(JOBS)
    ).one()
    if job.metadata:
        pairs = [{"job_id": job.id, "key": key, "value": value} for key, value in job.metadata.items()]
        connection.execute(JOB_METADATA.insert(), pairs)
    add_event(connection, job.id, f"Created fine-tuning job: {job.id}")
    add_event(connection, job.id, f"Validating training file: {job.training_file}")
    return row


def get_job(connection: Connection, tenant_id: int, job_id: str) -> Row[Any]:
    """The row of a job, or NotFound."""
    return _one(connection, job_id, sa.select(JOBS).where(JOBS.c.id == job_id, JOBS.c.tenant_id == tenant_id))


def list_jobs(
    connection: Connection, tenant_id: int, *, after: str | None, limit: int, metadata: Mapping[str, str] | None
) -> tuple[Sequence[Row[Any]], bool]:
    """(the tenant's jobs, newest first, after the id `after`; whether there are more).

    Fewer than `limit` where their definitions would have more than MAX_PAGE_CHARS together, and one at least.

    metadata: only jobs with all of these pairs; None: only jobs without metadata.
    """
    chars = sa.func.length(JOBS.c.method) + sa.func.length(JOBS.c.integrations)
    rows = sa.select(JOBS.c.id, chars.label("chars")).where(JOBS.c.tenant_id == tenant_id)
    if after is not None:
        check_after(after, PREFIX, "a job")
        rows = rows.where(JOBS.c.id < after)
    if metadata is None:
        rows = rows.where(~sa.exists().where(JOB_METADATA.c.job_id == JOBS.c.id))
    for key, value in (metadata or {}).items():
        pair = sa.and_(JOB_METADATA.c.key == key, JOB_METADATA.c.value == value)
        rows = rows.where(JOBS.c.id.in_(sa.select(JOB_METADATA.c.job_id).where(pair)))
    found = connection.execute(rows.order_by(JOBS.c.id.desc()).limit(limit + 1)).all()
    totals = accumulate(row.chars for row in found[:limit])
    ids = [row.id for row, total in zip(found, totals, strict=False) if row is found[0] or total <= MAX_PAGE_CHARS]
    page = sa.select(JOBS).where(JOBS.c.id.in_(ids)).order_by(JOBS.c.id.desc())
    return connection.execute(page).all(), len(found) > len(ids)


def cancel_job(database: Database, connection: Connection, tenant_id: int, job_id: str) -> Row[Any]:
    """Cancel a job in any unfinished state; its last step is published. Once more does nothing. BadRequest when it has
    finished otherwise."""
    row = locked_job(connection, job_id, tenant_id)
    if row.status == "cancelled":
        return row
    _check_unfinished(row)
    add_event(connection, row.id, "Fine-tuning job cancelled")
    publish_last(database, connection, row)
    return change_job(connection, row, status="cancelled", finished_at=now())


def fail_job(
    database: Database, connection: Connection, row: Row[Any], code: str, message: str, param: str | None = None
) -> Row[Any]:
    """Fail a job and end its lease; its last step is published. Returns the new row."""
    add_event(connection, row.id, f"The job failed: {message}", level="error")
    publish_last(database, connection, row)
    error = json.dumps({"code": code, "message": message, "param": param})
    return change_job(connection, row, status="failed", finished_at=now(), error=error, **NO_LEASE)


def pause_job(connection: Connection, tenant_id: int, job_id: str) -> Row[Any]:
    """Pause a job until it is resumed. BadRequest when it has finished."""
    row = _unfinished(connection, tenant_id, job_id)
    if row.status == "paused":
        return row
    add_event(connection, row.id, "Fine-tuning job paused")
    return change_job(connection, row, status="paused")


def pause_jobs_of_disabled(connection: Connection, tenant_id: int) -> None:
    """Pause all unfinished jobs of a tenant that is being disabled."""
    message = "Paused, for the tenant was disabled; resume the job when it is enabled."
    going_on = sorted(ACTIVE - {"paused"})
    rows = sa.select(JOBS).where(JOBS.c.tenant_id == tenant_id, JOBS.c.status.in_(going_on))
    for row in connection.execute(rows.order_by(JOBS.c.id).with_for_update()).all():
        add_event(connection, row.id, message, level="warn")
        change_job(connection, row, status="paused")


def resume_job(connection: Connection, tenant_id: int, job_id: str) -> Row[Any]:
    """Resume a paused job. BadRequest when it has finished."""
    row = _unfinished(connection, tenant_id, job_id)
    if row.status != "paused":
        return row
    add_event(connection, row.id, "Fine-tuning job resumed")
    # Its worker may still have it, not having noticed the pause.
    status = "running" if row.lease_owner is not None and row.total_steps is not None else waiting_status(row)
    return change_job(connection, row, status=status, attempts=0)


def waiting_status(row: Row[Any]) -> Status:
    """The state of a job that waits for a worker."""
    return "validating_files" if row.total_steps is None else "queued"


def locked_job(connection: Connection, job_id: str, tenant_id: int | None = None) -> Row[Any]:
    """The row of a job (of any tenant by default), locked until the transaction ends. NotFound."""
    rows = sa.select(JOBS).where(JOBS.c.id == job_id)
    if tenant_id is not None:
        rows = rows.where(JOBS.c.tenant_id == tenant_id)
    return _one(connection, job_id, rows.with_for_update())


def change_job(connection: Connection, row: Row[Any], **values: Any) -> Row[Any]:
    """Change columns of a job; its new row. An end is announced to the tenant's webhooks."""
    changed = connection.execute(JOBS.update().where(JOBS.c.id == row.id).values(**values).returning(JOBS)).one()
    if values.get("status") in FINISHED:
        announce(connection, changed.tenant_id, f"fine_tuning.job.{changed.status}", changed.id)
    return changed


def job_not_found(job_id: str) -> NotFound:
    """The error for the id of a job that does not exist, or is another tenant's."""
    return NotFound(
        f"There is no fine-tuning job {quoted(job_id)}; GET /v1/fine_tuning/jobs lists those there are.",
        param="job_id",
        code="job_not_found",
    )


def _unfinished(connection: Connection, tenant_id: int, job_id: str) -> Row[Any]:
    row = locked_job(connection, job_id, tenant_id)
    _check_unfinished(row)
    return row


def _check_unfinished(row: Row[Any]) -> None:
    if row.status in FINISHED:
        raise BadRequest(
            f"The job {row.id} has already finished: it is {row.status}.", param="job_id", code="job_finished"
        )


def _one(connection: Connection, job_id: str, rows: sa.Select[Any]) -> Row[Any]:
    row = connection.execute(rows).one_or_none() if is_id(job_id, PREFIX) else None
    if row is None:
        raise job_not_found(job_id)
    return row
