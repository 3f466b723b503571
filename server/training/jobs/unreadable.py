"""Jobs that this gateway cannot read: they are left for one that can, and an event says so.

One may be of a newer version, as after a downgrade. Or the key of its secrets is not named here: while an operator
replaces keys, gateways that restarted have another than those that still serve. If such a job has waited KEY_WAIT_S
for its key, and no gateway has opened it, the key is lost, and the job is failed. Only time in which workers ask for
jobs counts, for while nobody does no gateway can open it.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
import structlog
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from server.core.clock import now
from server.db.database import Database
from server.db.training_tables import JOB_EVENTS
from server.training.jobs.events import add_event
from server.training.jobs.lifecycle import fail_job, locked_job
from server.training.jobs.stranded import STRANDED
from server.training.states import wanted_of

# Longer than it takes to restart all gateways.
KEY_WAIT_S = 6 * 3600
# Between two tries of a job, of which each takes milliseconds while nobody else can write.
AGAIN_S = 60
# What counts at most of the time between two tries: of a longer one workers were away, or had no room.
COUNTED_S = 600
WAITS_FOR_ITS_KEY = (
    "The job's secrets cannot be read: they were sealed with a key that this server's TINYLORA_SECRETS_KEY does not "
    "name (any more). The job waits for a server that has the key; the operator can name it again behind the new one. "
    f"Without it the job fails after {KEY_WAIT_S // 3600} hours in which workers asked for jobs."
)
KEY_IS_LOST = (
    "The job's secrets cannot be read: they were sealed with a key that the server's TINYLORA_SECRETS_KEY does not "
    f"name (any more), and for {KEY_WAIT_S // 3600} hours no other server had it. Make the job again, with its secrets."
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wait:
    """When this gateway tried a job last, and how long the job has waited for its key."""

    tried_at: int
    waited_s: int


class UnreadableJobs:
    """Of one gateway. Used by claims alone, which are made one after the other."""

    def __init__(self) -> None:
        self._waits: dict[str, Wait] = {}

    def lately(self) -> set[str]:
        """The jobs that are not tried again yet."""
        at = now()
        self._waits = {job_id: wait for job_id, wait in self._waits.items() if wait.tried_at > at - KEY_WAIT_S}
        return {job_id for job_id, wait in self._waits.items() if wait.tried_at > at - AGAIN_S}

    def leave_for_its_version(self, connection: Connection, job_id: str, error: ValidationError) -> None:
        """Say, once, that the job waits for a gateway of another version."""
        self._waits[job_id] = Wait(now(), 0)
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        message = f"This version of the server cannot read the job ({why}), so the job waits for one that can."
        said = sa.exists().where(JOB_EVENTS.c.job_id == job_id, JOB_EVENTS.c.message == message)
        if not connection.execute(sa.select(said)).scalar_one():
            add_event(connection, job_id, message, level="warn")
            log.warning("job cannot be read", job=job_id, why=why)

    def leave_for_its_key(self, database: Database, connection: Connection, job_id: str) -> None:
        """Say that the job waits for a gateway with the key of its secrets; fail it when it has for KEY_WAIT_S."""
        at = now()
        last = self._waits.get(job_id, Wait(at, 0))
        waited_s = last.waited_s + min(at - last.tried_at, COUNTED_S)
        row = locked_job(connection, job_id)
        if wanted_of(row.status) != "run":
            return  # its owner paused or cancelled it meanwhile
        # Servers of other factors say theirs meanwhile.
        said = sa.select(JOB_EVENTS.c.message).where(
            JOB_EVENTS.c.job_id == job_id, sa.not_(JOB_EVENTS.c.message.startswith(STRANDED))
        )
        if connection.execute(said.order_by(JOB_EVENTS.c.id.desc()).limit(1)).scalar() != WAITS_FOR_ITS_KEY:
            # Something happened since it was said last, so a new wait begins.
            waited_s = 0
            add_event(connection, job_id, WAITS_FOR_ITS_KEY, level="warn")
            log.warning("job cannot be read: TINYLORA_SECRETS_KEY lacks the key of its secrets", job=job_id)
        self._waits[job_id] = Wait(at, waited_s)
        if waited_s >= KEY_WAIT_S:
            fail_job(database, connection, row, "secret_unreadable", KEY_IS_LOST)
