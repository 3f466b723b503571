"""Whose job is next, and which job gives its place to one that waits. Functions of a connection.

Next is the tenant with the fewest running jobs for its weight, of several such the one whose last turn is longest ago,
and of its jobs the oldest. A job that has run for TURN_S gives way behind a step, where a tenant that waits would then
have no more running jobs for its weight than the job's own tenant had; and one whose tenant has more weight, after as
many times TURN_S, where a tenant that waits has none. It goes on behind that step in its next turn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.db.database import Database
from server.db.tables import TENANTS
from server.db.training_tables import JOBS
from server.training.jobs.config import GRADIENT_METHODS, METHODS

# Of a job, where others wait. In its next turn its rows are read again.
TURN_S = 600
# A worker with room for it has claimed a job by then.
WAIT_S = 60
# A worker has claimed a job by then for one that gave way.
GIVEN_S = 15
SUSPECT = 2
# PostgreSQL's lock under which workers claim. Any number will do.
CLAIM_LOCK = 0x71_4E_10_2B
TRAINED = ("queued", "running")


def next_job_id(
    connection: Connection,
    factors: str,
    methods: Sequence[str],
    statuses: Sequence[str],
    but_not: Collection[str],
    *,
    suspects: bool,
) -> str | None:
    """The job of these `factors` whose turn it is: of those in `statuses`, by one of `methods` where it is trained.

    suspects: whether it may be one.
    """
    ours = sa.or_(JOBS.c.status == "validating_files", JOBS.c.method_type.in_(methods))
    waiting = (
        sa.select(JOBS.c.tenant_id, sa.func.min(JOBS.c.id).label("id"))
        .where(claimable(statuses), JOBS.c.factors == factors, JOBS.c.id.not_in(but_not), ours)
        .group_by(JOBS.c.tenant_id)
    )
    if not suspects:
        waiting = waiting.where(sa.not_(suspect()))
    oldest, busy, had = waiting.subquery(), _busy(factors), JOBS.alias()
    # Of all its jobs, those that have ended too: short ones of one tenant would keep a long one of another for ever.
    last_turn = (
        sa.select(sa.func.max(had.c.turn_began_at))
        .where(had.c.tenant_id == oldest.c.tenant_id, had.c.factors == factors)
        .scalar_subquery()
    )
    rows = (
        sa.select(oldest.c.id)
        .join(TENANTS, TENANTS.c.id == oldest.c.tenant_id)
        .outerjoin(busy, busy.c.tenant_id == oldest.c.tenant_id)
        .where(TENANTS.c.disabled_at.is_(None))
        .order_by(sa.func.coalesce(busy.c.jobs, 0) / TENANTS.c.weight, sa.func.coalesce(last_turn, 0), oldest.c.id)
        .limit(1)
    )
    return connection.execute(rows).scalar()


def gives_way(database: Database, connection: Connection, row: Row[Any]) -> bool:
    """Whether the running job of `row` gives its place to another tenant's now.

    Only a job that a worker of the same kind can train counts, and none that may just be about to be claimed. Not while
    a worker claims, another job gives way, or as many places have been given as tenants wait, for jobs that share a
    worker end their steps together: it is asked again behind the next step.
    """
    at = now()
    if row.turn_began_at is None or at < row.turn_began_at + TURN_S:
        return False
    if (
        not database.is_sqlite
        and not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(CLAIM_LOCK))).scalar()
    ):
        return False
    alike = GRADIENT_METHODS if row.method_type in GRADIENT_METHODS else set(METHODS) - set(GRADIENT_METHODS)
    busy = _busy(row.factors)
    own_share = (
        sa.select(busy.c.jobs / TENANTS.c.weight)
        .join(TENANTS, TENANTS.c.id == busy.c.tenant_id)
        .where(busy.c.tenant_id == row.tenant_id)
    )
    share = (sa.func.coalesce(busy.c.jobs, 0) + 1) / TENANTS.c.weight
    own = TENANTS.alias()
    own_weight = sa.select(own.c.weight).where(own.c.id == row.tenant_id).scalar_subquery()
    long_turn = TENANTS.c.weight * (at - row.turn_began_at) >= own_weight * TURN_S
    waiting = (
        sa.select(sa.func.count(JOBS.c.tenant_id.distinct()))
        .join(TENANTS, TENANTS.c.id == JOBS.c.tenant_id)
        .outerjoin(busy, busy.c.tenant_id == JOBS.c.tenant_id)
        .where(claimable(TRAINED), JOBS.c.factors == row.factors, JOBS.c.method_type.in_(alike))
        .where(JOBS.c.tenant_id != row.tenant_id, TENANTS.c.disabled_at.is_(None))
        .where(JOBS.c.created_at <= at - WAIT_S, sa.not_(suspect()), sa.not_(_gave_way(at)))
        .where(sa.or_(share <= own_share.scalar_subquery(), sa.and_(busy.c.jobs.is_(None), long_turn)))
    )
    ours = sa.and_(JOBS.c.factors == row.factors, JOBS.c.method_type.in_(alike))
    given = sa.select(sa.func.count()).where(ours, _gave_way(at))
    taken = sa.select(sa.func.count()).where(ours, JOBS.c.status == "running", JOBS.c.turn_began_at > at - GIVEN_S)
    wait, free = connection.execute(
        sa.select(waiting.scalar_subquery(), given.scalar_subquery() - taken.scalar_subquery())
    ).one()
    return bool(wait > max(0, free))


def claimable(statuses: Sequence[str]) -> sa.ColumnElement[bool]:
    """Whether a job in one of `statuses` is for a worker to take."""
    return sa.and_(JOBS.c.status.in_(statuses), unleased())


def unleased() -> sa.ColumnElement[bool]:
    """Whether no worker has the lease of a job: one that was released or resumed has none, or an expired one."""
    return sa.or_(JOBS.c.lease_expires_at.is_(None), JOBS.c.lease_expires_at <= now())


def suspect() -> sa.ColumnElement[bool]:
    """Whether a job may have ended its workers (leases.py)."""
    # A lease that ran out has its owner still, unless that one has dropped the job.
    return sa.and_(JOBS.c.attempts >= SUSPECT, JOBS.c.lease_owner.is_not(None))


def _gave_way(at: int) -> sa.ColumnElement[bool]:
    """Whether a job has just given its place: its lease ended then, with no owner."""
    return sa.and_(
        JOBS.c.status == "queued",
        JOBS.c.lease_owner.is_(None),
        sa.func.coalesce(JOBS.c.lease_expires_at, 0) > at - GIVEN_S,
    )


def _busy(factors: str) -> sa.Subquery:
    """`tenant_id`, `jobs`: how many of a tenant's jobs workers have."""
    held = sa.and_(
        JOBS.c.status.in_(("validating_files", "running")), JOBS.c.factors == factors, JOBS.c.lease_expires_at > now()
    )
    return sa.select(JOBS.c.tenant_id, sa.func.count().label("jobs")).where(held).group_by(JOBS.c.tenant_id).subquery()
