"""Connections to SQLite and PostgreSQL: how many there are, and what each is told before it is used.

What all of them have in common, and what is done in them, is in `database`.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from server.db.bounded_connection import BoundedConnection

# 20 connections to PostgreSQL at most, which allows 100 to all gateways. Threads wait for a free one.
POOL_SIZE = 5
MAX_OVERFLOW = 15
# Times the longest time of a statement, and a server that has neither answered nor ended it hangs.
SILENCE = 1.25


def sqlite_connections(url: URL, busy_timeout_s: float) -> Engine:
    """To the file that `url` names. One with the option `tinylora_write` takes the lock as its transaction begins."""
    engine = sa.create_engine(url, hide_parameters=True)

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

    return engine


def switch_to_wal(engine: Engine, timeout_s: float) -> None:
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


def postgresql_connections(url: URL, busy_timeout_s: float, statement_timeout_s: float) -> Engine:
    """To the server that `url` names; they do not wait longer than `busy_timeout_s` for a lock, or for each other."""
    engine = sa.create_engine(
        url,
        # Errors are logged, and values are tenants': secrets, vectors, prompts.
        hide_parameters=True,
        # What the server has as its default is none of ours.
        isolation_level="READ COMMITTED",
        # A server that was restarted costs a reconnection, not a failed request.
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        pool_timeout=busy_timeout_s,
        pool_use_lifo=True,
    )
    lock_ms, statement_ms = int(busy_timeout_s * 1000), int(statement_timeout_s * 1000)

    @event.listens_for(engine, "do_connect")
    def do_connect(_dialect: object, _record: object, arguments: Any, parameters: Any) -> BoundedConnection:
        connection = BoundedConnection.connect(*arguments, **parameters)
        connection.silence_s = SILENCE * statement_timeout_s
        return connection

    @event.listens_for(engine, "connect")
    def on_connect(driver: Any, _record: object) -> None:
        driver.autocommit = True
        # Not as parameters of the connection, which poolers refuse.
        driver.execute(
            f"SET lock_timeout = {lock_ms}; SET statement_timeout = {statement_ms}; "
            f"SET idle_in_transaction_session_timeout = {statement_ms}"
        )
        driver.autocommit = False

    @event.listens_for(engine, "handle_error")
    def hide_values(context: sa.engine.ExceptionContext) -> None:
        # Details are rows ("Failing row contains ..."). PostgreSQL has them in its own log.
        error = context.original_exception
        if isinstance(error, psycopg.Error) and error.diag.message_primary is not None:
            whole, said = str(error), error.diag.message_primary
            for told in (error, context.sqlalchemy_exception):
                if told is not None:
                    told.args = (str(told.args[0]).replace(whole, said),)

    @event.listens_for(engine, "handle_error")
    def on_error(context: sa.engine.ExceptionContext) -> None:
        reads = context.connection is not None and context.connection.get_execution_options().get("postgresql_readonly")
        if not reads and isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
            # It took writes when we connected: the next connection is to the one that does now.
            context.is_disconnect = True

    return engine


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY
