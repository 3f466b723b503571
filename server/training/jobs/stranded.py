"""Jobs that no worker of this server takes, for they were made for other factors: an event says so.

So it is after a start with another model, or with factors that another machine computed. Such a job waits for a server
that has its own: one with the same database may, so nothing is said of factors of which a worker was seen to have a job
in the last SEARCHES, and of a job to which something happened in WAIT_S. After a change by its owner it is said again,
for nothing happens again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from server.core.clock import now
from server.db.training_tables import JOB_EVENTS, JOBS
from server.training.jobs.events import add_event
from server.training.jobs.turns import TRAINED, claimable

# Between two searches, of which each looks at all jobs of other factors.
AGAIN_S = 60
# Longer than it takes to start a server again: its jobs go back when it ends, and are nobody's until then.
WAIT_S = 3600
SEARCHES = WAIT_S // AGAIN_S
# Of one search, while nobody else can write.
MOST_TOLD = 100
STRANDED = "No worker of this server can take the job"
SHOWN_DIGEST = 12

log = structlog.get_logger(__name__)


class StrandedJobs:
    """Of one gateway. Used by claims alone, which are made one after the other."""

    def __init__(self) -> None:
        self._searched_at = 0
        # By factors: searches in a row in which their jobs waited, and no worker had one.
        self._searches: dict[str, int] = {}

    def tell(self, connection: Connection, model: str, factors: str) -> None:
        """Say it of all such jobs of which it is not the last thing said. `model`, `factors`: what is served."""
        at = now()
        if at < self._searched_at + AGAIN_S:
            return
        self._searched_at = at
        waiting = connection.execute(_waiting(factors, at)).scalars()
        self._searches = {one: self._searches.get(one, 0) + 1 for one in waiting}
        stranded = [one for one, searches in self._searches.items() if searches > SEARCHES]
        for row in connection.execute(_unsaid(stranded, at)).all():
            add_event(
                connection,
                row.id,
                f"{STRANDED}: it was made for {row.model} with the factors {row.factors[:SHOWN_DIGEST]}..., and this "
                f"server serves {model} with the factors {factors[:SHOWN_DIGEST]}... The job waits for a server with "
                "its own, which the operator can start with the same database and factors file. Or cancel it, and make "
                "it again for what is served here.",
                level="warn",
            )
            log.warning("job is of other factors", job=row.id, model=row.model, factors=row.factors)


def _waiting(factors: str, at: int) -> sa.Select[str]:
    held = JOBS.alias()
    are_trained = sa.exists().where(
        held.c.status.in_(("validating_files", "running")),
        held.c.factors == JOBS.c.factors,
        held.c.lease_expires_at > at,
    )
    return (
        sa.select(JOBS.c.factors)
        .where(claimable(("validating_files", *TRAINED)), JOBS.c.factors != factors, sa.not_(are_trained))
        .distinct()
    )


def _unsaid(stranded: Sequence[str], at: int) -> sa.Select[tuple[str, str, str]]:
    said = JOB_EVENTS.alias()
    newest = sa.select(sa.func.max(said.c.id)).where(said.c.job_id == JOBS.c.id).scalar_subquery()
    return (
        sa.select(JOBS.c.id, JOBS.c.model, JOBS.c.factors)
        .select_from(JOBS)
        .join(JOB_EVENTS, JOB_EVENTS.c.id == newest)
        .where(claimable(("validating_files", *TRAINED)), JOBS.c.factors.in_(stranded))
        .where(JOB_EVENTS.c.created_at <= at - WAIT_S, sa.not_(JOB_EVENTS.c.message.startswith(STRANDED)))
        .order_by(JOBS.c.id)
        .limit(MOST_TOLD)
        # What somebody changes now is looked at again.
        .with_for_update(of=JOBS, skip_locked=True)
    )
