"""Migrations, transactions, locks and start-up errors, on real SQLite files and a real PostgreSQL server."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import Connection
from structlog.testing import capture_logs

from server.core.errors import Unavailable
from server.core.months import month_start
from server.db.database import Database
from server.db.tables import ADAPTERS, METADATA, TENANTS, USAGE_MONTHS
from server.db.upgrade import MIGRATION_LOCK, upgrade
from server.db.url import DatabaseStartError, parse_url
from tests.postgres import PASSWORD, PASSWORD_IN_URL, PostgresServer
from tests.server.support.old_database import database_at

HOLD_A_TRANSACTION_OPEN = """
import sys
from server.db.database import Database
from tests.server.db.test_database import insert
with Database(sys.argv[1]).write() as connection:
    insert(connection, "half")
    print("written", flush=True)
    sys.stdin.read()
"""


def insert(connection: Connection, name: str) -> None:
    connection.execute(
        ADAPTERS.insert().values(tenant_id=1, name=name, created_at=0, last_version=1, revision=1, public=False)
    )


def add(database: Database, name: str) -> None:
    with database.write() as connection:
        insert(connection, name)


def names(database: Database) -> list[str]:
    with database.read() as connection:
        return sorted(connection.execute(sa.select(ADAPTERS.c.name)).scalars())


@pytest.fixture
def other(database: Database, database_url: str) -> Iterator[Database]:
    """Another gateway's."""
    other = Database(database_url)
    yield other
    other.close()


@pytest.fixture
def new_database_url(postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/deep/down/a%20b.db"
        return
    name = postgres.new_database()
    yield postgres.url(name)
    postgres.drop(name)


both_new = pytest.mark.parametrize("new_database_url", ["sqlite", "postgresql"], indirect=True)


def test_migrations_make_exactly_the_declared_tables(database: Database) -> None:
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    assert differences == []


@both_new
def test_many_servers_may_start_on_one_new_database_at_once(new_database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        databases = list(pool.map(lambda _: Database(new_database_url), range(8)))
    for number, database in enumerate(databases):
        add(database, f"n{number}")
    assert names(databases[0]) == [f"n{number}" for number in range(8)]
    for database in databases:
        database.close()


@pytest.mark.parametrize("new_database_url", ["postgresql"], indirect=True)
def test_a_migration_that_waits_for_a_long_reader_stops_nobody(new_database_url: str) -> None:
    with database_at(new_database_url, "0012"):
        pass
    migrating = sa.create_engine(parse_url(new_database_url))
    engine = migrating.execution_options(isolation_level="AUTOCOMMIT")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with ThreadPoolExecutor(1) as pool, capture_logs() as logs:
        with engine.connect() as backup, engine.connect() as gateway:
            backup.exec_driver_sql("BEGIN; LOCK TABLE responses IN ACCESS SHARE MODE")
            starting = pool.submit(upgrade, migrating.begin, is_sqlite=False, lock_timeout_s=0.5, pause_s=0.1)
            while not gateway.exec_driver_sql(waiting).scalar_one():
                assert not starting.done()
                time.sleep(0.02)
            gateway.exec_driver_sql("SET lock_timeout = '8s'")
            assert gateway.exec_driver_sql("SELECT count(*) FROM responses").scalar_one() == 0
            assert not starting.done()
            backup.exec_driver_sql("COMMIT")
        starting.result()
    assert any("pg_dump" in line["event"] for line in logs)
    database = Database(new_database_url)
    assert names(database) == []
    database.close()
    engine.dispose()


def test_database_of_a_newer_version_is_refused_in_a_sentence(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseStartError, match="newer version"):
        Database(database_url)


def test_transaction_of_a_killed_process_never_happened(database: Database, database_url: str) -> None:
    command = [sys.executable, "-c", HOLD_A_TRANSACTION_OPEN, database_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    add(database, "whole")
    assert names(database) == ["whole"]


def test_failed_transaction_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        insert(connection, "half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        database.transact(lambda connection: insert(connection, "half") or 1 / 0)
    assert names(database) == []
    add(database, "whole")
    assert names(database) == ["whole"]


def test_errors_are_logged_without_the_values_of_rows(database: Database) -> None:
    row = {"tenant_id": 1, "name": "top-secret", "last_version": 1, "revision": 1, "public": False}
    with pytest.raises(sa.exc.IntegrityError) as caught:
        database.transact(lambda to: to.execute(ADAPTERS.insert().values({**row, "created_at": None})))
    logged = "".join(traceback.format_exception(caught.value))
    assert "top-secret" not in logged
    assert "created_at" in str(caught.value.orig) and "created_at" in str(caught.value)
    assert "INSERT INTO adapters" in logged


def test_readers_do_not_wait_for_a_writer_and_see_what_was_committed(database: Database) -> None:
    with database.write() as connection:
        insert(connection, "new")
        assert names(database) == []
    assert names(database) == ["new"]


def test_reader_sees_one_state_throughout(database: Database, other: Database) -> None:
    with database.read() as connection:
        count = sa.select(sa.func.count()).select_from(ADAPTERS)
        before = connection.execute(count).scalar_one()
        add(other, "new")
        assert connection.execute(count).scalar_one() == before == 0


def test_reader_cannot_write_on_postgresql(postgres_url: str) -> None:
    database = Database(postgres_url)
    with pytest.raises(sa.exc.InternalError, match="read-only"), database.read() as connection:
        insert(connection, "new")
    database.close()


def test_concurrent_writes_of_one_row_follow_each_other(database: Database, other: Database) -> None:
    add(database, "a")
    bump = ADAPTERS.update().values(last_version=ADAPTERS.c.last_version + 1).returning(ADAPTERS.c.last_version)

    def write(number: int) -> int:
        chosen = (database, other)[number % 2]
        return chosen.transact(lambda connection: connection.execute(bump).scalar_one())

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(write, range(100))) == list(range(2, 102))


def test_writes_that_lock_rows_in_opposite_orders_all_succeed(database: Database, other: Database) -> None:
    add(database, "a")
    add(database, "b")
    both_have_one = Barrier(2)
    attempts: list[str] = []

    def write(chosen: Database, order: str) -> Callable[[Connection], None]:
        def do(connection: Connection) -> None:
            attempts.append(order)
            for name in order:
                raised = ADAPTERS.update().where(ADAPTERS.c.name == name).values(revision=ADAPTERS.c.revision + 1)
                connection.execute(raised)
                if name == order[0] and not database.is_sqlite and len(attempts) <= 2:
                    both_have_one.wait(10)

        return do

    with ThreadPoolExecutor(2) as pool:
        running = [
            pool.submit(chosen.transact, write(chosen, order)) for chosen, order in ((database, "ab"), (other, "ba"))
        ]
        for each in running:
            each.result()
    with database.read() as connection:
        assert connection.execute(sa.select(ADAPTERS.c.revision)).scalars().all() == [3, 3]
    assert len(attempts) == (2 if database.is_sqlite else 3)


def test_write_that_found_a_row_locked_for_too_long_works_again_once_it_is_free(
    database: Database, database_url: str
) -> None:
    impatient = Database(database_url, busy_timeout_s=0.05)
    with database.write() as connection:
        connection.execute(TENANTS.update().values(weight=2.0))
        with pytest.raises(Unavailable) as caught:
            impatient.transact(lambda other: other.execute(TENANTS.update().values(weight=3.0)))
    assert caught.value.code == "database_unavailable"
    impatient.transact(lambda other: other.execute(TENANTS.update().values(weight=3.0)))
    impatient.check_writable()
    impatient.close()
    assert names(database) == []


def test_a_check_of_writes_waits_for_none_of_another_gateway(postgres_url: str) -> None:
    checking, other = Database(postgres_url, busy_timeout_s=0.1), Database(postgres_url)
    with other.write() as connection:
        insert(connection, "")  # as gateways of older versions do in theirs
        checking.check_writable()
    checking.close()
    other.close()


def test_more_threads_than_connections_wait_for_one(postgres_url: str) -> None:
    database = Database(postgres_url)
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda _: names(database), range(200))) == [[]] * 200
    database.close()


def test_postgresql_that_restarts_costs_no_request_but_those_in_flight(
    postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url)
    add(database, "before")
    postgres.stop()
    with pytest.raises(Unavailable):
        names(database)
    with pytest.raises(Unavailable):
        database.check_writable()
    postgres.start()
    add(database, "after")
    assert names(database) == ["after", "before"]
    database.close()


def test_a_server_that_freezes_within_a_transaction_is_not_waited_for_for_ever(
    postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url, busy_timeout_s=0.1, statement_timeout_s=0.4)
    with pytest.raises(Unavailable), database.write() as connection:
        insert(connection, "half")
        with postgres.frozen(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()):
            insert(connection, "more")
    add(database, "whole")
    assert names(database) == ["whole"]
    database.close()


def test_a_migration_takes_the_time_it_takes(postgres_url: str) -> None:
    other = sa.create_engine(parse_url(postgres_url))
    with ThreadPoolExecutor(1) as pool, other.connect() as migrating:
        migrating.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
        starting = pool.submit(Database, postgres_url, busy_timeout_s=0.2, statement_timeout_s=0.6)
        time.sleep(1)
        assert not starting.done()
        migrating.exec_driver_sql(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
        starting.result().close()
    other.dispose()


def test_a_host_that_vanishes_while_it_works_is_noticed_by_tcp(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.read() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=os.dup(driver.fileno())) as tcp:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [tcp.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [10, 3, 3]
    database.close()


def test_a_connection_on_which_nothing_can_be_written_is_not_used_again(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.write() as connection:
        connection.exec_driver_sql("SET SESSION default_transaction_read_only = on")
    with pytest.raises(Unavailable):
        add(database, "before")
    add(database, "after")
    assert names(database) == ["after"]
    database.close()


def test_connection_cut_within_a_transaction_is_unavailable_and_leaves_nothing(
    postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url)
    with pytest.raises(Unavailable), database.write() as connection:
        insert(connection, "half")
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tinylora'")
        insert(connection, "more")
    assert names(database) == []
    database.close()


def test_sqlite_connections_have_the_settings_that_durability_rests_on(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_postgresql_connections_have_timeouts_and_an_isolation_of_our_own(postgres_url: str) -> None:
    database = Database(postgres_url, busy_timeout_s=3)
    settings = ("lock_timeout", "statement_timeout", "transaction_isolation", "application_name")
    with database.write() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in settings]
    database.close()
    assert shown == ["3s", "1min", "read committed", "tinylora"]


def test_sqlite_locked_by_another_program_is_unavailable_until_it_lets_go(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db", busy_timeout_s=0.05)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        add(database, "late")
    with pytest.raises(Unavailable):
        database.check_writable()
    other.execute("ROLLBACK")
    other.close()
    database.check_writable()
    add(database, "late")
    assert names(database) == ["late"]
    database.close()


@pytest.mark.parametrize("prefix", ["postgres://", "postgresql://", "postgresql+psycopg://"])
def test_usual_spellings_of_postgresql_urls_are_one(prefix: str, postgres: PostgresServer, postgres_url: str) -> None:
    database = Database(postgres_url.replace("postgresql://", prefix))
    assert database.url == parse_url(postgres_url)
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://u:s3cret@h/d",
        "s3cret",
        "",
        "postgresql://u:s3cret@h:port/d",
        "postgres://u:pa@s3cret@host/db",
    ],
)
def test_url_that_cannot_be_meant_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseStartError, match="TINYLORA_DATABASE_URL") as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)


def test_start_without_a_usable_server_says_what_is_wrong_and_never_the_password(postgres: PostgresServer) -> None:
    right = postgres.url("postgres")
    wrong = {
        right.replace(PASSWORD_IN_URL, "wr0ng"): "Correct the user and password",
        right.replace("postgres:p", "nobody:p"): "Correct the user and password",
        postgres.url("nowhere"): "Create it with `createdb`",
        right.replace(str(postgres.port), "1"): "Start the server there",
        f"postgresql:///x?host=/nowhere&password={PASSWORD_IN_URL}": "Start the server there",
    }
    for url, advice in wrong.items():
        with pytest.raises(DatabaseStartError) as caught:
            Database(url)
        assert advice in str(caught.value)
        assert str(caught.value).count("\n") == 0
        for secret in (PASSWORD, PASSWORD_IN_URL, "wr0ng"):
            assert secret not in str(caught.value)


def test_user_who_may_not_make_tables_is_told_so(postgres: PostgresServer) -> None:
    name = postgres.new_database()
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    try:
        with pytest.raises(DatabaseStartError, match=r"permission denied for schema public.*owner"):
            Database(f"postgresql://guest:guest@127.0.0.1:{postgres.port}/{name}")
    finally:
        postgres.drop(name)
        postgres.execute("DROP ROLE guest")


def test_file_that_is_no_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, for sure" * 100)
    with pytest.raises(DatabaseStartError, match=r"not a database.*Name another file"):
        Database(f"sqlite:///{tmp_path}/notes.txt")
    with pytest.raises(DatabaseStartError, match=r"cannot be made.*Name another file"):
        Database(f"sqlite:///{tmp_path}/notes.txt/a.db")


@both_new
def test_usage_from_before_limits_on_months_counts_in_the_month_that_is_running(new_database_url: str) -> None:
    now = int(time.time())
    hours = [month_start(now) - 3600, month_start(now), now // 3600 * 3600]
    with database_at(new_database_url, "0005") as connection:
        for adapter, hour in enumerate(hours):
            connection.exec_driver_sql(f"INSERT INTO usage VALUES ({hour}, 1, '', 'a{adapter}', 1, 10, 1)")
    database = Database(new_database_url)
    with database.read() as connection:
        assert connection.execute(sa.select(USAGE_MONTHS)).all() == [(1, month_start(now), 22)]
    database.close()


@both_new
def test_adapters_from_before_tenants_belong_to_the_default_tenant(new_database_url: str) -> None:
    with database_at(new_database_url, "0001") as connection:
        for number, (name, latest) in enumerate([("b/old", "2"), ("a", "NULL")]):
            connection.exec_driver_sql(f"INSERT INTO adapters VALUES ({7 + number}, '{name}', 2, {latest})")
        for version in (1, 2):
            connection.exec_driver_sql(
                "INSERT INTO adapter_versions VALUES "
                f"""(7, {version}, 1700000000, '{{}}', 'f', 'bfloat16', '?', 's', '{{"job": "j{version}"}}')"""
            )
    database = Database(new_database_url)
    with database.write() as connection:
        rows = "SELECT name, last_version, latest_version, t FROM (SELECT a.*, tenants.name AS t FROM adapters a "
        rows += "JOIN tenants ON tenants.id = tenant_id) AS x ORDER BY name"
        assert connection.exec_driver_sql(rows.replace("name,", "x.name,", 1)).all() == [
            ("a", 2, None, "default"),
            ("b/old", 2, 2, "default"),
        ]
        metadata = "SELECT a.name, version, key, value FROM adapter_versions v JOIN adapters a ON a.id = v.adapter_id "
        metadata += "LEFT JOIN adapter_metadata m ON m.adapter_id = a.id AND v.version = a.latest_version"
        assert connection.exec_driver_sql(f"{metadata} ORDER BY version").all() == [
            ("b/old", 1, None, None),
            ("b/old", 2, "job", "j2"),
        ]
        insert(connection, "new")
    assert names(database) == ["a", "b/old", "new"]
    database.close()


@both_new
def test_names_of_adapters_that_were_public_when_they_were_deleted_become_private(new_database_url: str) -> None:
    with database_at(new_database_url, "0014") as connection:
        for name, latest, public in [("gone", None, True), ("live", 1, True), ("own", None, False)]:
            row = {"tenant_id": 1, "name": name, "created_at": 1, "last_version": 1, "latest_version": latest}
            connection.execute(ADAPTERS.insert().values(**row, revision=5, public=public))
    database = Database(new_database_url)
    with database.read() as connection:
        found = connection.execute(sa.select(ADAPTERS.c.name, ADAPTERS.c.revision, ADAPTERS.c.public)).all()
    assert sorted(found) == [("gone", 6, False), ("live", 5, True), ("own", 5, False)]
    database.close()


def test_names_sort_by_their_bytes_on_both(database: Database) -> None:
    given = ["a/b", "a-b", "a", "B", "a.b", "ab", "Z", "_", "10", "9"]
    for name in given:
        add(database, name)
    with database.read() as connection:
        ordered = connection.execute(sa.select(ADAPTERS.c.name).order_by(ADAPTERS.c.name)).scalars().all()
    assert ordered == sorted(given)


def test_what_listings_are_ordered_by_sorts_by_its_bytes_in_any_language(postgres_url: str) -> None:
    ordered_by = {
        ("tenants", "name"), ("adapters", "name"), ("adapter_metadata", "name"), ("aliases", "name"),
        ("files", "id"), ("jobs", "id"), ("job_checkpoints", "id"), ("responses", "id"), ("webhook_endpoints", "id"),
    }  # fmt: skip
    database = Database(postgres_url)
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT table_name, column_name FROM information_schema.columns WHERE collation_name = 'C'"
        )
        by_bytes = {(table, column) for table, column in rows}
    database.close()
    assert ordered_by <= by_bytes
