"""What workers report of jobs: files read, steps done, the end.

A report is one transaction with everything that follows from it: events, samples, checkpoint, counters, the renewed
lease, and at the end the published adapter. A report that is sent again because its answer was lost is recognized by
the job's step or state, and answered alike.

Functions of a connection.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest
from server.db.database import Database
from server.db.training_tables import JOBS
from server.training.jobs.checkpoints import checked_vector, publish, store_checkpoint
from server.training.jobs.events import add_event, add_events
from server.training.jobs.leases import held_job, lease_lost
from server.training.jobs.lifecycle import NO_LEASE, change_job, fail_job, locked_job, waiting_status
from server.training.jobs.protocol import (
    FinishAnswer,
    FinishRequest,
    JobError,
    LeaseAnswer,
    ReportRequest,
    ValidatedRequest,
)
from server.training.jobs.samples import store_samples
from server.training.jobs.turns import gives_way
from server.training.states import ACTIVE, FINISHED, STATUSES, wanted_of

# What a job that nobody has may be, for an end of its work that was told before. Other ends only give the lease up.
_TOLD_BEFORE = {"succeeded": {"succeeded", "paused", "cancelled"}, "failed": {"failed", "cancelled"}}
GIVES_WAY = "Jobs of other tenants wait, so this one gives its place to one of them."


def validated(connection: Connection, job_id: str, request: ValidatedRequest) -> LeaseAnswer:
    """The files can be used: the job is queued, and the worker's lease ends."""
    row = locked_job(connection, job_id)
    if row.lease_owner != request.worker:
        if row.total_steps is None:
            raise lease_lost(job_id)
        return LeaseAnswer(wanted=wanted_of(row.status), lease_expires_at=None)
    if row.total_steps is not None or row.status in FINISHED:
        return LeaseAnswer(wanted=wanted_of(row.status), lease_expires_at=row.lease_expires_at)
    status = "queued" if row.status == "validating_files" else row.status
    rows = f"{request.training_rows} training rows"
    if request.validation_rows:
        rows += f", {request.validation_rows} validation rows"
    add_event(connection, job_id, f"Files validated ({rows}), moving job to queued state")
    if status == "queued" and _others_run(connection, row):
        text = "Other jobs are running. This one starts when a worker has room for it; tenants take turns at that."
        add_event(connection, job_id, text)
    row = change_job(connection, row, status=status, total_steps=request.total_steps, attempts=0, **NO_LEASE)
    return LeaseAnswer(wanted=wanted_of(row.status), lease_expires_at=None)


def report(
    database: Database,
    connection: Connection,
    job_id: str,
    request: ReportRequest,
    lease_s: int,
    most_sample_bytes: int,
) -> tuple[LeaseAnswer, bool]:
    """Store one step; (answer, whether it was new). A paused job keeps the step; one that has ended does not. Behind a
    step the job may give way to another tenant's.

    most_sample_bytes: of samples, kept of a job.
    """
    row = held_job(connection, job_id, request.worker)
    if row.status in FINISHED:
        return LeaseAnswer(wanted="cancel", lease_expires_at=row.lease_expires_at), False
    lease_expires_at = now() + lease_s
    is_news = row.step is None or request.step > row.step
    if is_news:
        _check_next(row, request.step)
        store_checkpoint(database, connection, row, request.step, request.checkpoint, request.metrics)
        add_events(connection, job_id, request.events)
        store_samples(connection, job_id, request.step, request.samples, most_sample_bytes)
        tokens = row.trained_tokens + request.trained_tokens
        row = change_job(connection, row, step=request.step, trained_tokens=tokens, attempts=0)
    row = change_job(connection, row, lease_expires_at=lease_expires_at)
    if is_news and row.status == "running" and row.step != row.total_steps and gives_way(database, connection, row):
        add_event(connection, job_id, f"{GIVES_WAY} It goes on behind step {row.step} in its next turn.")
        # Not NO_LEASE: turns.py goes by when it was.
        change_job(connection, row, status=waiting_status(row), lease_owner=None, lease_expires_at=now())
        return LeaseAnswer(wanted="lost", lease_expires_at=None), True
    return LeaseAnswer(wanted=wanted_of(row.status), lease_expires_at=lease_expires_at), is_news


def finish(
    database: Database, connection: Connection, job_id: str, request: FinishRequest
) -> tuple[FinishAnswer, bool]:
    """End the work of this worker on a job. (answer, whether it was new).

    When the tenant may have no more adapters for the result, the job is paused, and succeeds when it is resumed.
    """
    row = locked_job(connection, job_id)
    if row.lease_owner != request.worker:
        if row.lease_owner is None and row.status in _TOLD_BEFORE.get(request.status, STATUSES):
            return _finished(row), False
        raise lease_lost(job_id)
    add_events(connection, job_id, request.events)
    if row.status in FINISHED or request.status in ("released", "cancelled", "paused"):
        # What the owner decided meanwhile stays.
        status = waiting_status(row) if row.status == "running" else row.status
        attempts = 0 if request.status == "released" else row.attempts
        return _finished(change_job(connection, row, status=status, attempts=attempts, **NO_LEASE)), True
    if request.status == "dropped":
        # Nobody's, and tried again when the lease has run out.
        return _finished(change_job(connection, row, lease_owner=None)), True
    if request.status == "stalled":
        return _finished(change_job(connection, row, status="paused", **NO_LEASE)), True
    if request.status == "failed":
        error = request.error or JobError(code="training_failed", message="The worker gave no reason.", param=None)
        return _finished(fail_job(database, connection, row, error.code, error.message, error.param)), True
    return _finished(_succeed(database, connection, row, request)), True


def give_back(database: Database, connection: Connection, worker: str) -> None:
    """Give all jobs of `worker`, whose process has ended, to the next one, as it would have done itself."""
    held = sa.select(JOBS.c.id).where(JOBS.c.status.in_(sorted(ACTIVE)), JOBS.c.lease_owner == worker)
    # Locked, or another worker could get one of them meanwhile, whose lease has run out.
    for job_id in connection.execute(held.order_by(JOBS.c.id).with_for_update()).scalars().all():
        finish(database, connection, job_id, FinishRequest(worker=worker, status="released"))


def _succeed(database: Database, connection: Connection, row: Row[Any], request: FinishRequest) -> Row[Any]:
    if request.best is None:
        raise BadRequest(
            "best is missing, expected the vector of a job that succeeded",
            param="best",
            code="missing_required_parameter",
        )
    vector = checked_vector(row, request.best.vector, "best.vector")
    stored = publish(database, connection, row, row.adapter_name, vector, request.best.step, request.best.metrics)
    if stored is None:
        message = "The result cannot be published: the tenant has as many adapters as it may have. Delete some, then "
        add_event(connection, row.id, f"{message}resume the job.", level="warn")
        return change_job(connection, row, status="paused", **NO_LEASE)
    add_event(connection, row.id, f"New fine-tuned model created: {stored.name}")
    add_event(connection, row.id, "The job has successfully completed")
    return change_job(connection, row, status="succeeded", finished_at=now(), fine_tuned_model=stored.name, **NO_LEASE)


def _others_run(connection: Connection, row: Row[Any]) -> bool:
    running = sa.select(sa.literal(1)).where(
        JOBS.c.status == "running", JOBS.c.factors == row.factors, JOBS.c.lease_expires_at > now()
    )
    return connection.execute(running.limit(1)).first() is not None


def _check_next(row: Row[Any], step: int) -> None:
    if step in ((0, 1) if row.step is None else (row.step + 1,)):
        return
    raise BadRequest(
        f"step is {step}, expected {'0 or 1' if row.step is None else row.step + 1}; claim the job again to go on from "
        "its last checkpoint",
        param="step",
        code="unexpected_step",
    )


def _finished(row: Row[Any]) -> FinishAnswer:
    return FinishAnswer(status=row.status, fine_tuned_model=row.fine_tuned_model)
