"""The events of a job, line by line, for its owner.

An event is written by the transaction that makes the change it is about and holds the job's row, so the events of a job
are numbered in the order in which things happened. A job's first number is random and the others follow it, so that
ids show nothing of other jobs.

Design decision: not numbers that the database counts. It counts the events of all tenants, and a tenant would see from
the gaps between its own how many the others have. Jobs that began with such numbers keep those of their old events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, quoted
from server.core.ids import first_number, is_counted_by_database
from server.db.training_tables import JOB_EVENTS
from server.training.jobs.protocol import WorkerEvent

PREFIX = "ftevent-"
MAX_DATA_CHARS = 2**16
_ID = re.compile(rf"{PREFIX}([0-9a-f]{{16}})")


def event_id(number: int) -> str:
    """The id of an event, from its number."""
    return f"{PREFIX}{number:016x}"


def add_event(
    connection: Connection,
    job_id: str,
    message: str,
    *,
    level: Literal["info", "warn", "error"] = "info",
    data: Any = None,
) -> None:
    """Add one event of the server itself."""
    add_events(connection, job_id, [WorkerEvent(level=level, message=message, data=data)])


def add_events(connection: Connection, job_id: str, events: Sequence[WorkerEvent]) -> None:
    """Add events in this order. BadRequest when one has more than MAX_DATA_CHARS of data."""
    if not events:
        return
    created_at, first = now(), _next_number(connection, job_id)
    for index, event in enumerate(events):
        data = json.dumps({} if event.data is None else event.data)
        if len(data) > MAX_DATA_CHARS:
            raise BadRequest(
                f"events[{index}].data has {len(data)} characters as JSON, expected at most {MAX_DATA_CHARS}",
                param=f"events[{index}].data",
                code="invalid_value",
            )
        connection.execute(
            JOB_EVENTS.insert().values(
                id=first + index,
                job_id=job_id,
                created_at=created_at,
                level=event.level,
                message=_printable(event.message),
                type=event.type,
                data=data,
            )
        )


def list_events(
    connection: Connection, job_id: str, *, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """(events of a job, newest first, after the id `after`; whether there are more)."""
    rows = sa.select(JOB_EVENTS).where(JOB_EVENTS.c.job_id == job_id)
    if after is not None:
        match = _ID.fullmatch(after)
        if match is None or int(match[1], 16) >= 2**63:
            raise BadRequest(
                f"after is {quoted(after)}, expected the id of an event", param="after", code="invalid_value"
            )
        rows = rows.where(JOB_EVENTS.c.id < int(match[1], 16))
    found = connection.execute(rows.order_by(JOB_EVENTS.c.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def _next_number(connection: Connection, job_id: str) -> int:
    """Behind all events that the job has."""
    last = connection.execute(sa.select(sa.func.max(JOB_EVENTS.c.id)).where(JOB_EVENTS.c.job_id == job_id)).scalar()
    return first_number() if last is None or is_counted_by_database(last) else int(last) + 1


def _printable(text: str) -> str:
    """`text` without NUL, which PostgreSQL refuses, and with halves of surrogate pairs escaped."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()
