"""The events of background responses that are streamed, in the database: some in a row, compressed.

What is stored is what is sent, `event: ...` and `data: ...`, numbered from 0. The last event of a stream is not stored:
it is made of the response's row, whoever has ended it, so a stream that is read to its end always says how that was.
Whoever streams shows only what is stored; so no event has a number under which another one was seen before.

Events count as bytes of their response. Functions of a connection.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.db.database import Database
from server.db.response_tables import RESPONSE_EVENTS, RESPONSES
from server.inference.responses.room import add_bytes, evict
from server.inference.responses.rows import RUNNING, TOO_LARGE, end_response, find_response, response_of

_ROWS_AT_ONCE = 32
# Cancelled has no event of its own in OpenAI's API. Design decision: failed, with the response's status in it, and not
# an event of a new name, which clients do not know: they would wait for an end.
_LAST_EVENTS = {"completed": "completed", "incomplete": "incomplete"}


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in a row as they are sent, the first of which has the number `first`."""

    tenant_id: int
    response_id: str
    first: int
    events: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StreamPart:
    """What a stream goes on with: `events` as they are sent, the number of the next one, whether that was the end."""

    events: bytes
    next: int
    ended: bool


def last_number(row: Row[Any]) -> int | None:
    """The number of the last event of a response that is streamed; None while it runs."""
    return None if row.status in RUNNING else int(row.events)


def sent_event(event: dict[str, Any]) -> bytes:
    """An event of a stream as it is sent."""
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def append_events(
    database: Database, connection: Connection, batch: EventBatch, *, most_bytes: int, most_tenant_bytes: int
) -> bool:
    """Store `batch`; whether its response still runs. One that has more than `most_bytes` then has failed instead.

    Those of them that are stored already are left out: a write may be repeated.
    """
    used = add_bytes(database, connection, batch.tenant_id, 0)
    wanted = sa.select(RESPONSES.c.status, RESPONSES.c.events, RESPONSES.c.bytes)
    wanted = wanted.where(RESPONSES.c.id == batch.response_id, RESPONSES.c.tenant_id == batch.tenant_id)
    row = connection.execute(wanted.with_for_update()).one_or_none()
    if row is None or row.status not in RUNNING:
        return False
    events = batch.events[row.events - batch.first :]
    if not events:
        return True
    data = zlib.compress(b"".join(events))
    size = len(data)
    if row.bytes + size > most_bytes:
        failed = {"status": "failed", "error": TOO_LARGE}
        end_response(database, connection, batch.tenant_id, batch.response_id, failed, most_bytes=most_bytes)
        return False
    values = {"response_id": batch.response_id, "first": row.events, "events": data}
    connection.execute(RESPONSE_EVENTS.insert().values(values))
    more = {"events": row.events + len(events), "bytes": row.bytes + size}
    connection.execute(RESPONSES.update().where(RESPONSES.c.id == batch.response_id).values(more))
    add_bytes(database, connection, batch.tenant_id, size)
    if used + size > most_tenant_bytes:
        evict(connection, batch.tenant_id, used + size - most_tenant_bytes)
    return True


def read_events(connection: Connection, tenant_id: int, response_id: str, number: int) -> StreamPart | None:
    """What the stream of a response has from event `number` on, some at a time; None when there is no such response.

    Of one that has ended that is its last event at least, whatever `number` is: who waits for more must learn the end.
    """
    wanted = sa.select(RESPONSES.c.status, RESPONSES.c.events)
    wanted = wanted.where(RESPONSES.c.id == response_id, RESPONSES.c.tenant_id == tenant_id)
    row = connection.execute(wanted).one_or_none()
    if row is None:
        return None
    if row.events > number:
        return _stored_events(connection, response_id, number)
    if row.status in RUNNING:
        return StreamPart(b"", number, ended=False)
    return StreamPart(_last_event(connection, tenant_id, response_id), row.events + 1, ended=True)


def _stored_events(connection: Connection, response_id: str, number: int) -> StreamPart:
    of_response = RESPONSE_EVENTS.c.response_id == response_id
    holder = sa.select(sa.func.max(RESPONSE_EVENTS.c.first)).where(of_response, RESPONSE_EVENTS.c.first <= number)
    rows = sa.select(RESPONSE_EVENTS.c.first, RESPONSE_EVENTS.c.events).where(of_response)
    rows = rows.where(RESPONSE_EVENTS.c.first >= holder.scalar_subquery()).order_by(RESPONSE_EVENTS.c.first)
    found: list[bytes] = []
    following = number
    for row in connection.execute(rows.limit(_ROWS_AT_ONCE)):
        events = zlib.decompress(row.events).split(b"\n\n")[:-1]
        found += [event + b"\n\n" for event in events[max(number - row.first, 0) :]]
        following = row.first + len(events)
    return StreamPart(b"".join(found), following, ended=False)


def _last_event(connection: Connection, tenant_id: int, response_id: str) -> bytes:
    row = find_response(connection, tenant_id, response_id)
    assert row is not None  # read in the same transaction
    kind = f"response.{_LAST_EVENTS.get(row.status, 'failed')}"
    return sent_event({"type": kind, "sequence_number": row.events, "response": response_of(row)})
