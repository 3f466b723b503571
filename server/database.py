"""The database behind the registry: SQLite or PostgreSQL, its connections and its migrations.

Design decision: a write is one transaction that holds what it read. SQLite, in WAL mode, has one writing connection per
process, which takes the lock at its beginning (BEGIN IMMEDIATE); readers never wait. On PostgreSQL writes lock the rows
that they change.

The statements are SQLAlchemy's and the same for both; what must differ (`insert` with ON CONFLICT) is here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from server.tables import ADAPTERS, DEFAULT_TENANT_ID

MIGRATIONS = Path(__file__).with_name("migrations")
# PostgreSQL's lock under which servers that start together migrate one after the other. Any number will do.
MIGRATION_LOCK = 0x71_4E_10_2A


class Database:
    """Connections to one database, migrated to the newest schema. Safe to use from any thread."""

    def __init__(self, url: str, *, busy_timeout_s: float = 10.0) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _prepare_file(self.url)
            self._engine = sa.create_engine(self.url)
            _configure_sqlite(self._engine, busy_timeout_s)
            _switch_to_wal(self._engine, busy_timeout_s)
        else:
            # pre_ping: a server that was restarted costs a reconnection, not a failed request.
            self._engine = sa.create_engine(self.url, pool_pre_ping=True, pool_size=16, max_overflow=24)
        self._write_lock = threading.Lock()
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            _migrate(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database throughout."""
        level: Any = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._engine.connect().execution_options(**level) as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
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

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def check_writable(self) -> None:
        """Write and take it back. Raises SQLAlchemyError when the database cannot be written."""
        with self._write_lock, self._engine.connect().execution_options(tinylora_write=True) as connection:
            transaction = connection.begin()
            try:
                connection.execute(
                    ADAPTERS.insert().values(
                        tenant_id=DEFAULT_TENANT_ID, name="", created_at=0, last_version=0, revision=0, public=False
                    )
                )
            finally:
                transaction.rollback()

    def close(self) -> None:
        """Close every connection; the object cannot be used afterwards."""
        self._engine.dispose()


def parse_url(url: str) -> URL:
    """SQLAlchemy's URL, with our driver for PostgreSQL. ValueError for another kind of database."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ValueError(
        f"database_url begins with {backend}://, expected sqlite:///file or postgresql://user@host/database"
    )


def _prepare_file(url: URL) -> None:
    if not url.database or url.database == ":memory:":
        raise ValueError(f"database_url is {url}: the registry needs a file, as in sqlite:///data/tinylora.db")
    Path(url.database).absolute().parent.mkdir(parents=True, exist_ok=True)


def _configure_sqlite(engine: Engine, busy_timeout_s: float) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(driver: Any, _record: object) -> None:
        # The driver would begin transactions where it sees fit; `on_begin` does, where we do.
        driver.isolation_level = None
        driver.execute(f"PRAGMA busy_timeout={int(busy_timeout_s * 1000)}")
        # An answered upload must survive a power cut, and uploads are few.
        driver.execute("PRAGMA synchronous=FULL")
        driver.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("tinylora_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(engine: Engine, timeout_s: float) -> None:
    """A property of the file, which stays. SQLite does not wait for a lock here, as it does everywhere else."""
    connection = engine.raw_connection()
    driver: Any = connection.driver_connection
    retrying = Retrying(
        retry=retry_if_exception(_is_busy), wait=wait_fixed(0.02), stop=stop_after_delay(timeout_s), reraise=True
    )
    try:
        retrying(driver.execute, "PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
