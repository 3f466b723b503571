"""The database behind the registry: its tables, its connections, its migrations.

Design decision: SQLite in WAL mode with one writing connection per process. Reads never wait; a write takes the lock at
its beginning (BEGIN IMMEDIATE), so that what it read is still true when it commits. `data_version` on that connection
changes exactly when some other process has committed, which is what caches need to know.

The URL and the statements are SQLAlchemy's, so another database can follow; only then must `data_version` find a
substitute, and until it has one it says None, which means "do not cache".
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
from sqlalchemy.engine import URL, Connection, Engine, make_url
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

METADATA = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

# A deleted adapter keeps its row, so that its next version does not take a number that was in use.
ADAPTERS = sa.Table(
    "adapters",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("last_version", sa.Integer, nullable=False),  # the highest ever given
    sa.Column("latest_version", sa.Integer),  # the highest there is; null when deleted
)

ADAPTER_VERSIONS = sa.Table(
    "adapter_versions",
    METADATA,
    sa.Column("adapter_id", sa.Integer, sa.ForeignKey("adapters.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # seconds since 1970
    sa.Column("recipe", sa.Text, nullable=False),  # canonical JSON
    sa.Column("factors", sa.String(64), nullable=False),  # SHA-256 of the factors file
    sa.Column("dtype", sa.String(16), nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),  # the vector, as uploaded
    sa.Column("sha256", sa.String(64), nullable=False),  # of data
    sa.Column("metadata", sa.Text, nullable=False),  # JSON object of strings
)

MIGRATIONS = Path(__file__).with_name("migrations")


class Database:
    """Connections to one database, migrated to the newest schema. Safe to use from any thread."""

    def __init__(self, url: str, *, busy_timeout_s: float = 10.0) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _prepare_file(parsed)
        self._engine = sa.create_engine(parsed)
        if self.is_sqlite:
            _configure_sqlite(self._engine, busy_timeout_s)
            _switch_to_wal(self._engine, busy_timeout_s)
        self._lock = threading.Lock()
        self._writer: Connection = self._engine.connect().execution_options(tinylora_write=True)
        with self.write() as connection:
            _migrate(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database throughout."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        with self._lock, self._writer.begin():
            yield self._writer

    def data_version(self, *, wait: bool) -> int | None:
        """A number that changes when another process has written; None when that cannot be told.

        Takes microseconds, except when this process is just writing: then it waits, or says None if not `wait`.
        """
        if not self.is_sqlite or not self._lock.acquire(blocking=wait):
            return None
        try:
            driver: Any = self._writer.connection.driver_connection
            version: int = driver.execute("PRAGMA data_version").fetchone()[0]
            return version
        finally:
            self._lock.release()

    def check_writable(self) -> None:
        """Write and take it back. Raises SQLAlchemyError when the database cannot be written."""
        with self._lock:
            transaction = self._writer.begin()
            try:
                self._writer.execute(ADAPTERS.insert().values(name="", last_version=0))
            finally:
                transaction.rollback()

    def close(self) -> None:
        """Close every connection; the object cannot be used afterwards."""
        with self._lock:
            self._writer.close()
            self._engine.dispose()


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
