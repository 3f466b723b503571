"""What was stored of a batch's lines, read and removed with some rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.db.batch_tables import BATCH_RESULTS
from server.db.database import Database

ROWS_AT_ONCE, BYTES_AT_ONCE = 100, 4 * 2**20
NUMBERS_AT_ONCE = 1000
DELETED_AT_ONCE = 1000


def answered_lines(database: Database, batch_id: str) -> Iterator[int]:
    """The numbers of the lines that have an answer, in their order; some rows in memory at a time.

    Lines that are answered meanwhile may or may not be among them.
    """
    lines, last = BATCH_RESULTS.c.line, 0
    while True:
        rows = sa.select(lines).where(BATCH_RESULTS.c.batch_id == batch_id, lines > last).order_by(lines)
        with database.read() as connection:
            found = connection.execute(rows.limit(NUMBERS_AT_ONCE)).scalars().all()
        yield from found
        if len(found) < NUMBERS_AT_ONCE:
            return
        last = found[-1]


def stored_results(database: Database, batch_id: str, *, errors: bool) -> Iterator[str]:
    """The answers in the order of their lines, or the errors; some rows in memory at a time, and not many bytes."""
    table, last = BATCH_RESULTS, 0
    while True:
        rest = (table.c.batch_id == batch_id, table.c.line > last, table.c.is_error.is_(errors))
        sizes = sa.select(table.c.line, sa.func.length(table.c.data)).where(*rest).order_by(table.c.line)
        with database.read() as connection:
            found = connection.execute(sizes.limit(ROWS_AT_ONCE)).all()
            if not found:
                return
            last = _last_within(BYTES_AT_ONCE, found)
            rows = sa.select(table.c.data).where(*rest, table.c.line <= last).order_by(table.c.line)
            data = connection.execute(rows).scalars().all()
        yield from data


def _last_within(most_bytes: int, sizes: Iterable[tuple[int, int]]) -> int:
    """The last of these lines until which they have at most so many bytes together; the first, if it alone has more."""
    last, total = 0, 0
    for line, size in sizes:
        total += size
        if last and total > most_bytes:
            break
        last = line
    return last


def delete_results(connection: Connection, batch_id: str) -> int:
    """Some answers of a batch whose files are written; returns how many."""
    table = BATCH_RESULTS
    lines = sa.select(table.c.line).where(table.c.batch_id == batch_id).limit(DELETED_AT_ONCE)
    deleted = table.delete().where(table.c.batch_id == batch_id, table.c.line.in_(lines)).returning(table.c.line)
    return len(connection.execute(deleted).all())
