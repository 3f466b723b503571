"""The database behind the registry, SQLite or PostgreSQL: its transactions.

A write is one transaction, and what it has read stays true until it ends. SQLite, in WAL mode, has one writing
connection per process, which takes the lock when a write begins (BEGIN IMMEDIATE); readers never wait. On PostgreSQL
writes are READ COMMITTED and lock the rows that they change: a write waits for another write of the same rows, and then
sees it. `transact` runs a write again that PostgreSQL ended because of a deadlock.

The statements are SQLAlchemy's and the same for both; what must differ (`insert` with ON CONFLICT) is here. URLs, and
what is wrong with them, are in `url`; how connections are made in `connections`; migrations in `upgrade`.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy as sa
import structlog
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from server.core.errors import Unavailable
from server.core.principal import DEFAULT_TENANT_ID
from server.db.bounded_connection import BoundedConnection
from server.db.connections import postgresql_connections, sqlite_connections, switch_to_wal
from server.db.tables import ADAPTERS
from server.db.upgrade import upgrade
from server.db.url import DatabaseStartError, parse_url, why_unusable

# No statement of ours takes as long. One that does must not hold its locks forever.
STATEMENT_TIMEOUT_S = 60.0
ATTEMPTS = 6

T = TypeVar("T")


class Database:
    """Connections to one database, migrated to the newest schema. Safe to use from any thread.

    Raises DatabaseStartError, a sentence for the operator, when it cannot be opened. Later, whatever cannot be done
    because the database is gone, read-only, locked for too long or full raises Unavailable (503).
    """

    def __init__(
        self, url: str, *, busy_timeout_s: float = 10.0, statement_timeout_s: float = STATEMENT_TIMEOUT_S
    ) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = (
            sqlite_connections(self.url, busy_timeout_s)
            if self.is_sqlite
            else postgresql_connections(self.url, busy_timeout_s, max(statement_timeout_s, 2 * busy_timeout_s))
        )
        self._write_lock = threading.Lock()
        try:
            if self.is_sqlite:
                switch_to_wal(self._engine, busy_timeout_s)
            upgrade(self._begin_migration, is_sqlite=self.is_sqlite)
        except (sa.exc.SQLAlchemyError, sqlite3.Error, CommandError) as error:
            self.close()
            raise DatabaseStartError(why_unusable(self.url, error)) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database throughout."""
        level: Any = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with (
            _unavailable_when_lost(),
            self._engine.connect().execution_options(**level) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with _unavailable_when_lost(), self._begin() as connection:
            yield connection

    def transact(self, do: Callable[[Connection], T]) -> T:
        """`do` in one transaction, from its beginning again when PostgreSQL sacrificed it for another one."""
        retrying = Retrying(
            retry=retry_if_exception(_was_sacrificed),
            wait=wait_random_exponential(multiplier=0.01, max=0.5),
            stop=stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        with _unavailable_when_lost():
            return cast(T, retrying(self._transact_once, do))

    def _transact_once(self, do: Callable[[Connection], T]) -> T:
        with self._begin() as connection:
            return do(connection)

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        if not self.is_sqlite:
            with self._engine.begin() as connection:
                yield connection
            return
        # Threads wait their turn here rather than in SQLite, which would have them poll and lets some starve.
        with (
            self._write_lock,
            self._engine.connect().execution_options(tinylora_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _begin_migration(self) -> Iterator[Connection]:
        with self._begin() as connection:
            driver = connection.connection.driver_connection
            with driver.waits_for_ever() if isinstance(driver, BoundedConnection) else nullcontext():
                yield connection

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def check_writable(self) -> None:
        """Write and take it back. Raises Unavailable when the database cannot be written."""
        # Of each check its own, and no adapter's: gateways that write the same one would wait for each other.
        name = f"check {secrets.token_hex(8)}"
        with self.write() as connection:
            connection.execute(
                ADAPTERS.insert().values(
                    tenant_id=DEFAULT_TENANT_ID, name=name, created_at=0, last_version=0, revision=0, public=False
                )
            )
            connection.get_transaction().rollback()  # type: ignore[union-attr]

    def connection_parameters(self) -> dict[str, Any]:
        """What psycopg connects with, the password included."""
        _, parameters = self._engine.dialect.create_connect_args(self.url)
        return dict(parameters)

    def close(self) -> None:
        """Close every connection; the object cannot be used afterwards."""
        self._engine.dispose()


def unavailable(error: Exception) -> Unavailable:
    """What a request gets when the database does not answer; the reason goes to the log."""
    reason = getattr(error, "orig", None) or error
    structlog.get_logger().warning("database unavailable", error=type(reason).__name__, reason=str(reason).strip())
    return Unavailable(
        "The registry's database does not answer; try again in a moment. The server's log has the reason.",
        code="database_unavailable",
    )


@contextmanager
def _unavailable_when_lost() -> Iterator[None]:
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise unavailable(error) from error
    except sa.exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise unavailable(error) from error


def _was_sacrificed(error: BaseException) -> bool:
    reason = getattr(error, "orig", None)
    return isinstance(reason, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure)
