"""What the stored responses of a tenant take: so many bytes at most, for which the oldest make room.

Functions of a connection. Whoever changes a response locks its tenant's room first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.db.database import Database
from server.db.response_tables import RESPONSE_EVENTS, RESPONSE_ITEMS, RESPONSE_ROOM, RESPONSES

_EVICTED_AT_ONCE = 100


def add_bytes(database: Database, connection: Connection, tenant_id: int, size: int) -> int:
    """What the tenant's responses count for with `size` more; its row stays locked until the transaction ends."""
    insert = database.insert(RESPONSE_ROOM).values(tenant_id=tenant_id, bytes=size)
    added = {"bytes": RESPONSE_ROOM.c.bytes + insert.excluded.bytes}
    upsert = insert.on_conflict_do_update(index_elements=["tenant_id"], set_=added)
    return int(connection.execute(upsert.returning(RESPONSE_ROOM.c.bytes)).scalar_one())


def evict(connection: Connection, tenant_id: int, size: int) -> None:
    """Delete the oldest ended responses until `size` bytes are free. The caller has locked the room."""
    freed = 0
    while freed < size:
        oldest = sa.select(RESPONSES.c.id, RESPONSES.c.bytes).order_by(RESPONSES.c.id).limit(_EVICTED_AT_ONCE)
        ended = oldest.where(RESPONSES.c.tenant_id == tenant_id, RESPONSES.c.lease_expires_at.is_(None))
        rows = connection.execute(ended).all()
        if not rows:
            break
        chosen = []
        for row in rows:
            chosen.append(row)
            freed += row.bytes
            if freed >= size:
                break
        delete_rows(connection, chosen)
    room = RESPONSE_ROOM.c
    connection.execute(RESPONSE_ROOM.update().where(room.tenant_id == tenant_id).values(bytes=room.bytes - freed))


def delete_rows(connection: Connection, rows: Iterable[Any]) -> int:
    """Delete `rows`; what they counted for."""
    ids = [row.id for row in rows]
    for table in (RESPONSE_ITEMS, RESPONSE_EVENTS):
        connection.execute(table.delete().where(table.c.response_id.in_(ids)))
    deleted = RESPONSES.delete().where(RESPONSES.c.id.in_(ids)).returning(RESPONSES.c.bytes)
    return sum(connection.execute(deleted).scalars())
