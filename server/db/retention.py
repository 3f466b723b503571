"""What grows with every request and write, and goes when its time is over: audit, usage, what jobs leave behind, ended
batches, responses, used keys.

One sweep removes all of them, a thousand rows per transaction, so that no write waits long for it. Audit lines and
events are numbered as they come, so the oldest are found without an index on time. Any number of gateways may sweep one
database: each skips rows that another one has locked.

A job's events and samples go some time after its end, and none of a job that has not ended: its result file is made of
the events, and stays. Adapters, jobs and the history of aliases are their owners' to delete.

What is only rows is a line of `rules_of`. Other rooms bring rules of their own, as files do, whose bytes go with them
(training/files/sweep.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection

from server.core.background import repeating
from server.core.clock import Clock, now
from server.core.errors import ApiError
from server.core.months import month_start
from server.core.settings import Settings
from server.db.batch_tables import BATCH_RESULTS, BATCHES, UNFINISHED
from server.db.database import Database
from server.db.file_references import forget_deleted
from server.db.response_tables import RESPONSE_EVENTS, RESPONSE_ITEMS, RESPONSE_ROOM, RESPONSES
from server.db.tables import AUDIT_LOG, IDEMPOTENCY_KEYS, USAGE, USAGE_MONTHS
from server.db.training_tables import JOB_EVENTS, JOB_SAMPLES, JOBS

KEY_KEPT_S = 24 * 3600

DAY_S = 24 * 3600
BATCH = 1000
EVERY_S = 600.0
FIRST_S = 30.0
# Keys well past their time, and so not about to be answered from.
KEY_GRACE_S = 60


class Removal(Protocol):
    """Something that is kept for so long."""

    @property
    def what(self) -> str:
        """Its name in the log."""

    @property
    def kept_s(self) -> int:
        """For how many seconds."""

    def remove(self, database: Database, before: int, most: int) -> int:
        """Remove at most so many from before a time, in one transaction; returns how many. Blocks."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`delete(connection, before, most)` removes at most so many rows from before a time, and says how many it did."""

    what: str
    kept_s: int
    delete: Callable[[Connection, int, int], int]

    def remove(self, database: Database, before: int, most: int) -> int:
        return database.transact(lambda connection: self.delete(connection, before, most))


def rules_of(settings: Settings) -> tuple[Rule, ...]:
    """What goes, and when; nothing of what is kept for ever, which is 0 days."""
    in_days = (
        ("audit", settings.audit_retention_days, _delete_audit),
        ("usage", settings.usage_retention_days, _delete_usage),
        ("batches", settings.batch_retention_days, _delete_batches),
        ("job events", settings.job_event_retention_days, partial(_delete_of_jobs, JOB_EVENTS)),
        ("usage by month", settings.usage_retention_days, _delete_months),
        ("job samples", settings.job_sample_retention_days, partial(_delete_of_jobs, JOB_SAMPLES)),
        ("responses", settings.response_retention_days, _delete_responses),
    )
    rules = [Rule(what, days * DAY_S, delete) for what, days, delete in in_days if days]
    return (*rules, Rule("idempotency keys", KEY_KEPT_S + KEY_GRACE_S, _delete_keys))


class Retention:
    """The sweep over one database. `clock` gives seconds since 1970."""

    def __init__(self, database: Database, rules: Sequence[Removal], *, clock: Clock = now, batch: int = BATCH) -> None:
        self._database = database
        self._rules = rules
        self._clock = clock
        self._batch = batch

    async def sweep(self, ended: asyncio.Event) -> None:
        """Remove all that is too old, unless `ended` is set before that. What the database refuses stays until later.

        Does not return, cancelled or not, while a transaction of its own runs.
        """
        for rule in self._rules:
            before = int(self._clock()) - rule.kept_s
            try:
                total = await self._remove(rule, before, ended)
            except (ApiError, sa.exc.SQLAlchemyError) as error:
                structlog.get_logger().error("old rows not removed, kept until later", what=rule.what, error=str(error))
                continue
            if total:
                structlog.get_logger().info("old rows removed", what=rule.what, rows=total)

    async def _remove(self, rule: Removal, before: int, ended: asyncio.Event) -> int:
        total = 0
        while not ended.is_set():
            removed = await asyncio.to_thread(self.remove_some, rule, before)
            total += removed
            if not removed:
                break
        return total

    def remove_some(self, rule: Removal, before: int) -> int:
        """One transaction; returns how many rows it removed. Blocks."""
        return rule.remove(self._database, before, self._batch)


def sweeping(database: Database, rules: Sequence[Removal]) -> AbstractAsyncContextManager[None]:
    """Sweeps now and then while the block runs."""
    return repeating(Retention(database, rules).sweep, first_s=FIRST_S, every_s=EVERY_S)


def _delete_audit(connection: Connection, before: int, most: int) -> int:
    oldest = sa.select(AUDIT_LOG.c.id, AUDIT_LOG.c.created_at).order_by(AUDIT_LOG.c.id).limit(most)
    rows = connection.execute(oldest.with_for_update(skip_locked=True)).all()
    old = [row.id for row in rows if row.created_at < before]
    return _deleted(connection, AUDIT_LOG.delete().where(AUDIT_LOG.c.id.in_(old))) if old else 0


def _delete_usage(connection: Connection, before: int, most: int) -> int:
    key = sa.tuple_(*USAGE.primary_key)
    oldest = sa.select(*USAGE.primary_key).where(USAGE.c.hour < before).order_by(*USAGE.primary_key).limit(most)
    return _deleted(connection, USAGE.delete().where(key.in_(oldest.with_for_update(skip_locked=True))))


def _delete_months(connection: Connection, before: int, most: int) -> int:
    """Those that had ended by then."""
    key = sa.tuple_(*USAGE_MONTHS.primary_key)
    old = sa.select(*USAGE_MONTHS.primary_key).where(USAGE_MONTHS.c.month < month_start(before)).limit(most)
    return _deleted(connection, USAGE_MONTHS.delete().where(key.in_(old.with_for_update(skip_locked=True))))


def _delete_of_jobs(table: sa.Table, connection: Connection, before: int, most: int) -> int:
    """Of a table of what jobs leave behind: what is of a job that ended before then."""
    ended = sa.select(JOBS.c.id).where(JOBS.c.finished_at < before)
    ended = ended.where(sa.exists().where(table.c.job_id == JOBS.c.id)).order_by(JOBS.c.id).limit(most)
    jobs = list(connection.execute(ended).scalars())
    rows = sa.select(table.c.id).where(table.c.job_id.in_(jobs)).limit(most)
    chosen = rows.with_for_update(skip_locked=True)
    return _deleted(connection, table.delete().where(table.c.id.in_(chosen))) if jobs else 0


def _delete_batches(connection: Connection, before: int, most: int) -> int:
    """Batches that ended before then, and answers that a gateway which was killed left behind its batch."""
    ended_at = sa.func.coalesce(*(BATCHES.c[f"{name}_at"] for name in ("completed", "failed", "expired", "cancelled")))
    old = sa.select(BATCHES.c.id).where(BATCHES.c.status.not_in(UNFINISHED), ended_at < before).order_by(BATCHES.c.id)
    ids = list(connection.execute(old.limit(most).with_for_update(skip_locked=True)).scalars())
    if not ids:
        return 0
    key = sa.tuple_(BATCH_RESULTS.c.batch_id, BATCH_RESULTS.c.line)
    left = sa.select(*BATCH_RESULTS.primary_key).where(BATCH_RESULTS.c.batch_id.in_(ids)).limit(most)
    removed = _deleted(connection, BATCH_RESULTS.delete().where(key.in_(left)))
    if removed:
        return removed
    files = (BATCHES.c.input_file_id, BATCHES.c.output_file_id, BATCHES.c.error_file_id)
    gone = connection.execute(BATCHES.delete().where(BATCHES.c.id.in_(ids)).returning(*files)).all()
    forget_deleted(connection, [file_id for row in gone for file_id in row])
    return len(gone)


def _delete_responses(connection: Connection, before: int, most: int) -> int:
    """Of one tenant, whose room is locked first, as by everyone else."""
    oldest = sa.select(RESPONSES.c.tenant_id).where(RESPONSES.c.created_at < before).limit(1)
    is_room = RESPONSE_ROOM.c.tenant_id == oldest.scalar_subquery()
    tenant_id = connection.execute(sa.select(RESPONSE_ROOM.c.tenant_id).where(is_room).with_for_update()).scalar()
    old = sa.and_(RESPONSES.c.tenant_id == tenant_id, RESPONSES.c.created_at < before)
    ids = list(connection.execute(sa.select(RESPONSES.c.id).where(old).order_by(RESPONSES.c.id).limit(most)).scalars())
    key = sa.tuple_(*RESPONSE_EVENTS.primary_key)
    events = sa.select(*RESPONSE_EVENTS.primary_key).where(RESPONSE_EVENTS.c.response_id.in_(ids)).limit(most)
    if removed := _deleted(connection, RESPONSE_EVENTS.delete().where(key.in_(events))):
        return removed  # a stream may have more of them than a transaction removes
    connection.execute(RESPONSE_ITEMS.delete().where(RESPONSE_ITEMS.c.response_id.in_(ids)))
    deleted = RESPONSES.delete().where(RESPONSES.c.id.in_(ids)).returning(RESPONSES.c.bytes)
    freed = list(connection.execute(deleted).scalars())
    room = RESPONSE_ROOM.update().where(RESPONSE_ROOM.c.tenant_id == tenant_id)
    connection.execute(room.values(bytes=RESPONSE_ROOM.c.bytes - sum(freed)))
    return len(freed)


def _delete_keys(connection: Connection, before: int, most: int) -> int:
    key = (IDEMPOTENCY_KEYS.c.tenant_id, IDEMPOTENCY_KEYS.c.key)
    oldest = sa.select(*key).where(IDEMPOTENCY_KEYS.c.created_at < before).limit(most)
    chosen = oldest.with_for_update(skip_locked=True)
    return _deleted(connection, IDEMPOTENCY_KEYS.delete().where(sa.tuple_(*key).in_(chosen)))


def _deleted(connection: Connection, delete: sa.Delete) -> int:
    result: sa.CursorResult[Any] = connection.execute(delete)
    return result.rowcount
