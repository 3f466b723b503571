"""Leases: which worker has which job.

Claims are made one after the other, under a lock of their own on PostgreSQL (SQLite has one writer anyway), so that the
choice is fair (turns.py); files are read by any worker. A job whose worker no longer renews its lease is handed on; a
job whose workers ended MAX_ATTEMPTS times in a row without a step is failed. One that this gateway cannot read is left
for another one, and tried again after a minute (`unreadable`); one of other factors is not claimed (`stranded`).

A job is a suspect when its worker vanished without a word, and SUSPECT attempts or more ended without a step. A worker
is given one suspect at a time: until it has got something done, or for TRIAL_S, the others wait, and they alone. So a
job that ends its workers, by taking all memory, takes another one with it SUSPECT times at most, and is failed then.

Functions of a connection.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest
from server.core.seals import CannotOpen, Seals
from server.db.database import Database
from server.db.tables import TENANTS
from server.db.training_tables import JOB_CHECKPOINTS, JOB_EVENTS, JOBS
from server.training.jobs.config import JOB_CONFIG
from server.training.jobs.events import add_event
from server.training.jobs.lifecycle import change_job, fail_job, locked_job
from server.training.jobs.method_secrets import method_with_secrets
from server.training.jobs.protocol import Checkpoint, ClaimAnswer, ClaimedJob, ClaimRequest, LeaseAnswer
from server.training.jobs.stranded import StrandedJobs
from server.training.jobs.turns import CLAIM_LOCK, SUSPECT, TRAINED, claimable, next_job_id, suspect
from server.training.jobs.unreadable import UnreadableJobs
from server.training.states import wanted_of

MAX_ATTEMPTS = 5
TRIAL_S = 600
VALIDATING = 4
TRIAL = "Workers of the job have ended without a word. It is tried beside no other of which this is so."


@dataclass(frozen=True, slots=True)
class Leasing:
    """What a gateway gives jobs out with. model: that it serves. seals: of the jobs' secrets. unreadable, stranded: the
    jobs that it passes over."""

    database: Database
    lease_s: int
    model: str
    seals: Seals
    unreadable: UnreadableJobs
    stranded: StrandedJobs


def claim(leasing: Leasing, connection: Connection, request: ClaimRequest) -> ClaimAnswer:
    """Renew the leases of `running`, and lease as many new jobs to the worker as it has capacity for."""
    lease_s = leasing.lease_s
    running = {job_id: _renew(connection, job_id, request.worker, lease_s) for job_id in sorted(set(request.running))}
    if not leasing.database.is_sqlite:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(CLAIM_LOCK)))
    validating = (VALIDATING if request.capacity else 0) if request.validating is None else request.validating
    jobs: list[ClaimedJob] = []
    for statuses, capacity in ((("validating_files",), validating), (TRAINED, request.capacity)):
        held = [*request.running, *(job.id for job in jobs)]
        jobs += _claim_some(leasing, connection, request, statuses, capacity, held)
    leasing.stranded.tell(connection, leasing.model, request.factors)
    return ClaimAnswer(jobs=jobs, running=running, lease_s=lease_s)


def held_job(connection: Connection, job_id: str, worker: str) -> Row[Any]:
    """The locked row of a job that `worker` has the lease of; BadRequest (`lease_lost`) when it does not.

    An expired lease is still the worker's until another one gets it.
    """
    row = locked_job(connection, job_id)
    if row.lease_owner != worker:
        raise lease_lost(job_id)
    return row


def lease_lost(job_id: str) -> BadRequest:
    """The error for a worker that does not have the lease of the job."""
    return BadRequest(
        f"The worker does not have the lease of {job_id} (any more); drop the job, it is another worker's or nobody's.",
        param="worker",
        code="lease_lost",
    )


def _renew(connection: Connection, job_id: str, worker: str, lease_s: int) -> LeaseAnswer:
    expires_at = now() + lease_s
    renewed = (
        JOBS.update()
        .where(JOBS.c.id == job_id, JOBS.c.lease_owner == worker)
        .values(lease_expires_at=expires_at)
        .returning(JOBS.c.status)
    )
    status = connection.execute(renewed).scalar_one_or_none()
    if status is None:
        return LeaseAnswer(wanted="lost", lease_expires_at=None)
    return LeaseAnswer(wanted=wanted_of(status), lease_expires_at=expires_at)


def _claim_some(
    leasing: Leasing,
    connection: Connection,
    request: ClaimRequest,
    statuses: tuple[str, ...],
    capacity: int,
    held: Sequence[str],
) -> list[ClaimedJob]:
    claimed: list[ClaimedJob] = []
    but_not = leasing.unreadable.lately()
    while len(claimed) < capacity:
        on_trial = _has_trial(connection, [*held, *(job.id for job in claimed)])
        job_id = next_job_id(connection, request.factors, request.methods, statuses, but_not, suspects=not on_trial)
        if job_id is None:
            break
        try:
            # Taken back for a job that cannot be read; everyone's renewals stay.
            with connection.begin_nested():
                row = _lease(leasing, connection, job_id, request.worker, statuses)
                # None: its owner paused or cancelled it meanwhile, so the next query does not find it.
                if row is None:
                    continue
                method = method_with_secrets(json.loads(row.method), leasing.seals.open)
                claimed.append(_claimed(connection, row, method))
        except ValidationError as error:
            but_not.add(job_id)
            leasing.unreadable.leave_for_its_version(connection, job_id, error)
        except CannotOpen:
            but_not.add(job_id)
            leasing.unreadable.leave_for_its_key(leasing.database, connection, job_id)
    return claimed


def _has_trial(connection: Connection, job_ids: Collection[str]) -> bool:
    """Whether one of these claimed jobs was a suspect, and has got nothing done since."""
    found = sa.exists().where(
        JOBS.c.id.in_(job_ids),
        JOBS.c.attempts > SUSPECT,
        JOB_EVENTS.c.job_id == JOBS.c.id,
        JOB_EVENTS.c.message == TRIAL,
        JOB_EVENTS.c.created_at > now() - TRIAL_S,
    )
    return bool(connection.execute(sa.select(found)).scalar_one())


def _lease(
    leasing: Leasing, connection: Connection, job_id: str, worker: str, statuses: tuple[str, ...]
) -> Row[Any] | None:
    at = now()
    is_suspect = connection.execute(sa.select(suspect()).where(JOBS.c.id == job_id)).scalar_one()
    taken = (
        JOBS.update()
        .where(JOBS.c.id == job_id, claimable(statuses))
        .values(lease_owner=worker, lease_expires_at=at + leasing.lease_s, attempts=JOBS.c.attempts + 1)
        .returning(JOBS)
    )
    row = connection.execute(taken).one_or_none()
    if row is None:
        return None
    if row.attempts > MAX_ATTEMPTS:
        message = f"{MAX_ATTEMPTS} attempts in a row ended without a step. What workers said of them is in the events."
        fail_job(leasing.database, connection, row, "worker_failed", message)
        return None
    if row.attempts > 1:
        add_event(connection, job_id, f"Another worker goes on with the job (attempt {row.attempts})", level="warn")
    if is_suspect:
        add_event(connection, job_id, TRIAL, level="warn")
    if row.status == "validating_files":
        return row
    if row.started_at is None:
        add_event(connection, job_id, "Fine-tuning job started")
    return change_job(connection, row, status="running", started_at=row.started_at or at, turn_began_at=at)


def _claimed(connection: Connection, row: Row[Any], method: dict[str, Any]) -> ClaimedJob:
    rows = sa.select(JOB_CHECKPOINTS).where(JOB_CHECKPOINTS.c.job_id == row.id)
    last = connection.execute(rows.order_by(JOB_CHECKPOINTS.c.step.desc()).limit(1)).one_or_none()
    tenant = connection.execute(sa.select(TENANTS.c.name).where(TENANTS.c.id == row.tenant_id)).scalar_one()
    checkpoint = None
    if last is not None:
        checkpoint = Checkpoint(
            step=last.step, vector=last.vector, optimizer=last.optimizer, state=json.loads(last.state)
        )
    return ClaimedJob(
        id=row.id,
        tenant=tenant,
        status=row.status,
        model=row.model,
        training_file=row.training_file,
        validation_file=row.validation_file,
        seed=row.seed,
        method=method,
        config=JOB_CONFIG.validate_json(row.config),
        integrations=json.loads(row.integrations),
        metadata=json.loads(row.metadata),
        total_steps=row.total_steps,
        init_vector=row.init_vector,
        checkpoint=checkpoint,
        attempts=row.attempts,
        lease_expires_at=row.lease_expires_at,
    )
