"""Migrations, transactions and locks of the database, on real files."""

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from server.database import Database
from server.tables import ADAPTERS, METADATA

HOLD_A_TRANSACTION_OPEN = """
import sys
from server.database import Database
from server.tables import ADAPTERS
with Database(sys.argv[1]).write() as connection:
    connection.execute(ADAPTERS.insert().values(name="half", last_version=1, latest_version=1))
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/down/a%20b.db"


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(ADAPTERS.c.name).order_by(ADAPTERS.c.name)).scalars())


def add(database: Database, name: str) -> None:
    with database.write() as connection:
        connection.execute(ADAPTERS.insert().values(name=name, last_version=1))


def test_migrations_make_exactly_the_declared_tables(url: str) -> None:
    database = Database(url)
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    database.close()
    assert differences == []


def test_connections_have_the_settings_that_durability_rests_on(url: str) -> None:
    database = Database(url)
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_many_servers_may_start_on_one_new_database_at_once(url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        databases = list(pool.map(lambda _: Database(url), range(8)))
    for number, database in enumerate(databases):
        add(database, f"n{number}")
    assert names(databases[0]) == [f"n{number}" for number in range(8)]
    for database in databases:
        database.close()


def test_transaction_of_a_killed_process_never_happened(url: str) -> None:
    command = [sys.executable, "-c", HOLD_A_TRANSACTION_OPEN, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    database = Database(url)
    add(database, "whole")
    assert names(database) == ["whole"]
    database.close()


def test_failed_transaction_leaves_nothing_behind(url: str) -> None:
    database = Database(url)
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute(ADAPTERS.insert().values(name="half", last_version=1))
        raise ZeroDivisionError
    assert names(database) == []
    add(database, "whole")
    assert names(database) == ["whole"]
    database.close()


def test_readers_do_not_wait_for_a_writer_and_see_what_was_committed(url: str) -> None:
    database = Database(url)
    with database.write() as connection:
        connection.execute(ADAPTERS.insert().values(name="new", last_version=1))
        assert names(database) == []
    assert names(database) == ["new"]
    database.close()


def test_write_that_found_the_database_locked_works_again_once_it_is_free(url: str) -> None:
    database = Database(url, busy_timeout_s=0.05)
    other = sqlite3.connect(sa.make_url(url).database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        add(database, "late")
    with pytest.raises(sa.exc.OperationalError, match="locked"):
        database.check_writable()
    other.execute("ROLLBACK")
    other.close()
    database.check_writable()
    add(database, "late")
    assert names(database) == ["late"]
    database.close()


def test_data_version_changes_when_another_connection_commits_and_not_otherwise(url: str) -> None:
    database, other = Database(url), Database(url)
    first = database.data_version(wait=True)
    add(database, "own")
    database.check_writable()
    assert database.data_version(wait=True) == first
    add(other, "foreign")
    assert database.data_version(wait=True) != first
    database.close()
    other.close()


def test_data_version_is_unknown_while_this_process_writes(url: str) -> None:
    database = Database(url)
    with database.write():
        assert database.data_version(wait=False) is None
    assert database.data_version(wait=False) is not None
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_database_in_memory_is_refused_because_it_would_not_outlive_a_connection(url: str) -> None:
    with pytest.raises(ValueError, match="needs a file"):
        Database(url)
