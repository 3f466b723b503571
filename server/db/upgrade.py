"""Brings a database to the newest tables: all migrations that it lacks, in one transaction.

Design decision: on PostgreSQL a migration waits for a table for LOCK_TIMEOUT_S only, and begins again later. Whoever
waits to change a table has all that come later wait behind it, so behind one long reader (pg_dump) a migration that
waited for as long as it takes would stop the gateways that still serve. Pauses grow, for they wait at each attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

MIGRATIONS = Path(__file__).with_name("migrations")
# PostgreSQL's lock under which servers that start together migrate one after the other. Any number will do.
MIGRATION_LOCK = 0x71_4E_10_2A
# Less than gateways wait for a lock (TINYLORA_DATABASE_BUSY_TIMEOUT_S).
LOCK_TIMEOUT_S = 2
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0

Begin = Callable[[], AbstractContextManager[Connection]]


def upgrade(
    begin: Begin, *, is_sqlite: bool, lock_timeout_s: float = LOCK_TIMEOUT_S, pause_s: float = SHORTEST_PAUSE_S
) -> None:
    """Migrate the database of which `begin` begins a transaction, however long others use its tables. `pause_s` is the
    shortest pause between two attempts."""
    pauses = wait_random_exponential(multiplier=2 * pause_s, min=pause_s, max=LONGEST_PAUSE_S)
    Retrying(retry=retry_if_exception(_is_in_use), wait=pauses, before_sleep=_say_in_use)(
        _upgrade_once, begin, is_sqlite, lock_timeout_s
    )


def _upgrade_once(begin: Begin, is_sqlite: bool, lock_timeout_s: float) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with begin() as connection:
        if not is_sqlite:
            # Another server's migration, or a large one of our own, takes the time it takes.
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(1000 * lock_timeout_s)}ms'")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _is_in_use(error: BaseException) -> bool:
    reason = getattr(error, "orig", None)
    return isinstance(reason, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)


def _say_in_use(state: RetryCallState) -> None:
    structlog.get_logger().warning(
        "the database's tables are not migrated yet: others use them, a backup (pg_dump) for instance; tried again",
        attempt=state.attempt_number,
        in_s=round(state.upcoming_sleep, 1),
    )
