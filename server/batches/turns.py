"""Which gateway has which batch: claiming those that nobody has, and giving way. Functions of a connection."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.batches.leases import Standing, standing
from server.core.clock import now
from server.db.batch_tables import BATCHES, UNFINISHED
from server.db.tables import TENANTS

# Of a batch, where more tenants have batches than gateways run at once. Its file is read from the start again.
TURN_S = 60.0


def claim(connection: Connection, owner: str, lease_s: int) -> Standing | None:
    """Lease to `owner` the oldest batch that nobody has, of the tenant of which the fewest run, and of several such of
    the one whose last turn is longest ago; None: there is none."""
    at = now()
    other = BATCHES.alias()
    of_tenant = other.c.tenant_id == BATCHES.c.tenant_id, other.c.status.in_(UNFINISHED)
    running = sa.select(sa.func.count()).where(*of_tenant, _has_gateway(other, at)).scalar_subquery()
    last_turn = sa.select(sa.func.max(sa.func.coalesce(other.c.lease_expires_at, 0))).where(*of_tenant)
    rows = (
        sa.select(BATCHES.c.id)
        .join(TENANTS, TENANTS.c.id == BATCHES.c.tenant_id)
        .where(_waits(at))
        .order_by(running, last_turn.scalar_subquery(), BATCHES.c.id)
        .limit(1)
    )
    batch_id = connection.execute(rows).scalar()
    if batch_id is None:
        return None
    taken = (
        BATCHES.update()
        .where(BATCHES.c.id == batch_id, BATCHES.c.status.in_(UNFINISHED), _is_unleased(at))
        .values(lease_owner=owner, lease_expires_at=at + lease_s, attempts=BATCHES.c.attempts + 1)
    )
    if not connection.execute(taken.returning(BATCHES.c.id)).first():
        return None  # another gateway was faster
    return standing(connection, batch_id, owner)


def gives_way(connection: Connection, owner: str, had_s: Mapping[str, float]) -> str | None:
    """Which batch `owner` should give up for one that waits, so that tenants have as many as each other; None: none.

    `had_s`: for how many seconds it has had each of its batches. Where a tenant that waits would then have more than
    the one that gives up, they take turns of TURN_S.
    """
    at = now()
    waiting = sa.select(BATCHES.c.tenant_id).join(TENANTS, TENANTS.c.id == BATCHES.c.tenant_id).where(_waits(at))
    running = sa.select(BATCHES.c.tenant_id, sa.func.count()).where(
        BATCHES.c.status.in_(UNFINISHED), _has_gateway(BATCHES, at)
    )
    count: dict[int, int] = dict(map(tuple, connection.execute(running.group_by(BATCHES.c.tenant_id))))
    least = min((count.get(tenant, 0) for tenant in connection.execute(waiting.distinct()).scalars()), default=None)
    if least is None:
        return None
    mine = sa.select(BATCHES.c.id, BATCHES.c.tenant_id).where(
        BATCHES.c.lease_owner == owner, BATCHES.c.status == "in_progress"
    )
    rows = [(batch, tenant) for batch, tenant in connection.execute(mine) if batch in had_s]
    ahead: dict[str, int] = {batch: count.get(tenant, 0) - least for batch, tenant in rows}
    far = [batch for batch, more in ahead.items() if more > 1]
    if far:
        return max(far, key=lambda batch: (ahead[batch], batch))
    over = [batch for batch, more in ahead.items() if more == 1 and had_s[batch] >= TURN_S]
    return max(over, key=lambda batch: had_s[batch], default=None)


def _is_unleased(at: int) -> sa.ColumnElement[bool]:
    return sa.or_(BATCHES.c.lease_expires_at.is_(None), BATCHES.c.lease_expires_at <= at)


def _has_gateway(batches: sa.FromClause, at: int) -> sa.ColumnElement[bool]:
    return sa.and_(batches.c.lease_owner.is_not(None), batches.c.lease_expires_at > at)


def _waits(at: int) -> sa.ColumnElement[bool]:
    """Whether a batch, joined with its tenant, is for any gateway to take."""
    # Those of a disabled tenant wait, but not to be ended.
    due = sa.or_(
        TENANTS.c.disabled_at.is_(None), BATCHES.c.expires_at <= at, BATCHES.c.status.in_(("finalizing", "cancelling"))
    )
    return sa.and_(BATCHES.c.status.in_(UNFINISHED), _is_unleased(at), due)
