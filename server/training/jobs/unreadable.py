"""Jobs that this gateway cannot read: they are left for one that can, and an event says so.

One may be of a newer version, as after a downgrade. Or the key of its secrets is not named here: while an operator
replaces keys, gateways that restarted have another than those that still serve. If no gateway has opened such a job
for KEY_WAIT_S, the key is lost, and the job is failed.

Functions of a connection.
"""

from __future__ import annotations

import sqlalchemy as sa
import structlog
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from server.core.clock import now
from server.core.seals import CannotOpen
from server.db.database import Database
from server.db.training_tables import JOB_EVENTS
from server.training.jobs.events import add_event, list_events
from server.training.jobs.lifecycle import fail_job, locked_job
from server.training.states import wanted_of

# Longer than it takes to restart all gateways.
KEY_WAIT_S = 6 * 3600

log = structlog.get_logger(__name__)


def leave_for_its_version(connection: Connection, job_id: str, error: ValidationError) -> None:
    """Say, once, that the job waits for a gateway of another version."""
    first = error.errors(include_url=False, include_input=False)[0]
    why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    message = f"This version of the server cannot read the job ({why}), so the job waits for one that can."
    said = sa.exists().where(JOB_EVENTS.c.job_id == job_id, JOB_EVENTS.c.message == message)
    if not connection.execute(sa.select(said)).scalar_one():
        add_event(connection, job_id, message, level="warn")
        log.warning("job cannot be read", job=job_id, why=why)


def leave_for_its_key(database: Database, connection: Connection, job_id: str, error: CannotOpen) -> None:
    """Say that the job waits for a gateway with the key of its secrets; fail it when none has come for KEY_WAIT_S."""
    row = locked_job(connection, job_id)
    if wanted_of(row.status) != "run":
        return  # its owner paused or cancelled it meanwhile
    message = f"{error.message} Until then the job waits."
    events, _ = list_events(connection, job_id, after=None, limit=1)
    if not events or events[0].message != message:
        # Something happened since it was said last, so a new wait begins.
        add_event(connection, job_id, message, level="warn")
        log.warning("job cannot be read: TINYLORA_SECRETS_KEY lacks the key of its secrets", job=job_id)
    elif events[0].created_at <= now() - KEY_WAIT_S:
        fail_job(database, connection, row, error.code, error.message)
