"""The reads of every request: right, never old, together with others, and after the server was away."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import uvloop

from server.core.errors import Unavailable
from server.core.principal import DEFAULT_TENANT_ID
from server.db.coalesced_reads import MAX_BATCH
from server.db.database import Database
from server.db.point_reads import AdapterRow, KeyRow, PointReads, TenantRow, open_point_reads
from server.db.tables import ADAPTERS, API_KEYS, TENANTS, USAGE_MONTHS
from tests.postgres import PostgresServer

DEFAULT = TenantRow(
    id=DEFAULT_TENANT_ID,
    name="default",
    disabled_at=None,
    max_adapters=None,
    requests_per_minute=None,
    tokens_per_minute=None,
    max_concurrent_requests=None,
    weight=1.0,
)


@pytest.fixture
async def reads(database: Database) -> AsyncIterator[PointReads]:
    reads = open_point_reads(database)
    yield reads
    await reads.close()


def add_adapters(database: Database, *names: str, tenant_id: int = DEFAULT_TENANT_ID) -> None:
    with database.write() as connection:
        rows = [{"name": name, "revision": 10 + number} for number, name in enumerate(names)]
        same = {"tenant_id": tenant_id, "created_at": 0, "last_version": 1, "public": False}
        connection.execute(ADAPTERS.insert(), [{**same, **row} for row in rows])


def raise_revision(database: Database, name: str) -> int:
    raised = ADAPTERS.update().where(ADAPTERS.c.name == name).values(revision=ADAPTERS.c.revision + 1)
    return database.transact(lambda c: c.execute(raised.returning(ADAPTERS.c.revision)).scalar_one())


async def test_adapter_is_found_by_its_tenant_and_whole_name(database: Database, reads: PointReads) -> None:
    other = database.transact(
        lambda c: c.execute(
            TENANTS.insert().values(name="globex", created_at=0, adapter_count=0, weight=2.5).returning(TENANTS.c.id)
        ).scalar_one()
    )
    add_adapters(database, "a", "a/b")
    add_adapters(database, "a", tenant_id=other)
    with database.read() as connection:
        rows = connection.execute(sa.select(ADAPTERS)).all()
    for row in rows:
        assert await reads.adapter(row.tenant_id, row.name) == AdapterRow(row.id, row.revision, row.public)
    for tenant_id, name in [
        (other, "a/b"),
        (99, "a"),
        (1, "A"),
        (1, "a "),
        (1, "ä"),
        (1, "a\0"),
        (1, "\ud800"),
        (1, ""),
    ]:
        assert await reads.adapter(tenant_id, name) is None
    tenant = await reads.tenant("globex", 0)
    assert tenant is not None and tenant.id == other
    assert await reads.tenant("globex", 0) == TenantRow(other, "globex", None, None, None, None, None, 2.5)


async def test_key_comes_with_its_tenant(database: Database, reads: PointReads) -> None:
    with database.write() as connection:
        connection.execute(TENANTS.update().values(disabled_at=5, max_adapters=6, requests_per_minute=7))
        connection.execute(TENANTS.update().values(tokens_per_minute=8, max_concurrent_requests=9))
        connection.execute(
            API_KEYS.insert().values(
                id="key_1", tenant_id=1, name="", hash="ab" * 32, hint="xyz", scopes="infer adapters", created_at=0
            )
        )
    tenant = TenantRow(1, "default", 5, 6, 7, 8, 9, 1.0)
    assert await reads.key("ab" * 32, 0) == KeyRow("key_1", "infer adapters", None, None, None, None, None, tenant)
    with database.write() as connection:
        connection.execute(API_KEYS.update().values(expires_at=1, revoked_at=2, requests_per_minute=3))
        connection.execute(API_KEYS.update().values(tokens_per_minute=4, max_concurrent_requests=5))
    assert await reads.key("ab" * 32, 0) == KeyRow("key_1", "infer adapters", 1, 2, 3, 4, 5, tenant)
    assert await reads.key("cd" * 32, 0) is None


async def test_what_a_tenant_used_in_a_month_comes_with_it_where_that_has_a_limit(
    database: Database, reads: PointReads
) -> None:
    def used(row: TenantRow | None) -> tuple[int | None, int | None]:
        assert row is not None
        return row.tokens_per_month, row.month_tokens

    with database.write() as connection:
        connection.execute(
            USAGE_MONTHS.insert(), [{"tenant_id": 1, "month": month, "tokens": month + 2**40} for month in (100, 200)]
        )
    assert used(await reads.tenant("default", 100)) == (None, None)
    with database.write() as connection:
        connection.execute(TENANTS.update().values(tokens_per_month=5))
    answers = await asyncio.gather(*(reads.tenant("default", month) for month in (100, 150, 200)))
    assert list(map(used, answers)) == [(5, 100 + 2**40), (5, 0), (5, 200 + 2**40)]


async def test_many_reads_of_every_kind_at_once_get_their_own_answers(database: Database, reads: PointReads) -> None:
    names = [f"n{number}" for number in range(2 * MAX_BATCH + 1)]
    add_adapters(database, *names)
    asked = ["default", *names, "none", *names]
    tenants = [reads.tenant(name, 0) for name in asked[:3]]
    found = await asyncio.gather(*(reads.adapter(1, name) for name in asked), *tenants)
    revisions = [row.revision if isinstance(row, AdapterRow) else row for row in found[: len(asked)]]
    assert revisions == [None, *range(10, 10 + len(names)), None, *range(10, 10 + len(names))]
    assert found[len(asked) :] == [DEFAULT, None, None]


async def test_read_is_never_older_than_a_write_acknowledged_before_it(database: Database, reads: PointReads) -> None:
    names = [f"n{number}" for number in range(8)]
    add_adapters(database, *names)
    acknowledged = dict.fromkeys(names, 0)
    stop = asyncio.Event()

    async def write(name: str) -> None:
        while not stop.is_set():
            acknowledged[name] = await asyncio.to_thread(raise_revision, database, name)

    async def read(name: str) -> None:
        before = acknowledged[name]
        found = await reads.adapter(1, name)
        assert found is not None and found.revision >= before

    writers = [asyncio.create_task(write(name)) for name in names]
    for _ in range(200):
        await asyncio.gather(*(read(name) for name in names * 4))
        await asyncio.sleep(0)
    stop.set()
    await asyncio.gather(*writers)
    assert min(acknowledged.values()) > 10


async def test_reads_do_not_wait_for_a_write_in_progress(database: Database, reads: PointReads) -> None:
    add_adapters(database, "a")
    with database.write() as connection:
        connection.execute(ADAPTERS.update().values(revision=99))
        connection.execute(TENANTS.update().values(weight=9.0))
        found = await reads.adapter(1, "a")
        assert found is not None and found.revision == 10
        assert await reads.tenant("default", 0) == DEFAULT


async def test_cancelled_reads_leave_the_others_alone(database: Database, reads: PointReads) -> None:
    add_adapters(database, "a")
    for _ in range(20):
        tasks = [asyncio.create_task(reads.adapter(1, "a")) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        # SQLite's have answered by the time they are cancelled.
        assert all(answer is not None and not isinstance(answer, BaseException) for answer in found[1::2])


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_one_object_serves_several_loops_at_once(database: Database, reads: PointReads, new_loop: object) -> None:
    add_adapters(database, "a")
    results: list[list[object]] = []

    async def many() -> list[object]:
        return [await reads.adapter(1, "a") for _ in range(100)]

    def run() -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:  # type: ignore[arg-type]
            results.append(runner.run(many()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    results.append(await many())
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(results) == 5
    assert len({answer for answers in results for answer in answers}) == 1


async def test_postgresql_that_is_away_is_unavailable_and_found_again(
    postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url)
    reads = open_point_reads(database)
    assert await reads.tenant("default", 0) == DEFAULT
    # Connections that were cut while the server stayed are not noticed at all.
    postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tinylora'")
    assert await asyncio.gather(*(reads.tenant("default", 0) for _ in range(50))) == [DEFAULT] * 50
    for how in (signal.SIGINT, signal.SIGQUIT):
        postgres.stop(how)
        answers = await asyncio.gather(*(reads.tenant("default", 0) for _ in range(50)), return_exceptions=True)
        assert {getattr(answer, "code", None) for answer in answers} == {"database_unavailable"}
        with pytest.raises(Unavailable):
            await reads.adapter(1, "a")
        postgres.start()
        assert await asyncio.gather(*(reads.tenant("default", 0) for _ in range(50))) == [DEFAULT] * 50
    await reads.close()
    database.close()


async def test_postgresql_gets_no_more_than_a_few_connections_however_many_reads(postgres_url: str) -> None:
    database = Database(postgres_url)
    reads = open_point_reads(database)
    await asyncio.gather(*(reads.tenant("default", 0) for _ in range(1000)))
    with database.read() as connection:
        open_now = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).scalar_one()
    await reads.close()
    database.close()
    assert 1 <= open_now <= 3


async def test_statement_that_fails_fails_its_reader_and_no_later_one(postgres_url: str) -> None:
    database = Database(postgres_url)
    reads = open_point_reads(database)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE adapters RENAME TO hidden")
    with pytest.raises(Exception, match="adapters"):
        await reads.adapter(1, "a")
    assert await reads.tenant("default", 0) == DEFAULT
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO adapters")
    assert await reads.adapter(1, "a") is None
    await reads.close()
    database.close()


async def test_sqlite_reads_cannot_write(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/a.db")
    reads = open_point_reads(database)
    with pytest.raises(Unavailable):
        await reads._row("UPDATE tenants SET weight = {0}", 5)
    assert await reads.tenant("default", 0) == DEFAULT
    await reads.close()
    database.close()
