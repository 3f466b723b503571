"""Versions of adapters: immutable, consecutive, never reused, and never served from an outdated cache."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import pytest
import sqlalchemy as sa

from server.core.errors import BadRequest, NotFound, PreconditionFailed
from server.core.names import Reference
from server.db.tables import ADAPTER_METADATA, ADAPTER_VERSIONS, ADAPTERS, TENANTS
from server.registry.creation import NewVersion, create_versions
from server.registry.etags import NO_PRECONDITION, Precondition
from server.registry.rows import entry_at, set_public
from server.registry.store import Registry
from tests.server.support.process import Process, adapter

RESTORED = (ADAPTERS, ADAPTER_VERSIONS)


async def test_what_was_stored_comes_back_unchanged_after_a_restart(process: Process, database_url: str) -> None:
    made = NewVersion("acme/math", adapter(0.25, rank=1, u=3, groups=2, seed=7), {"job": "j1", "ünï": "code"})
    [entry] = process.write(lambda to: create_versions(process.database, to, 1, [made]))
    second = Process.on(database_url)
    assert await second.resolve("acme/math") == await second.resolve("acme/math@1") == entry.stored
    assert second.create("acme/math").version == 2
    await second.close()


async def test_identical_bytes_make_a_new_version_and_leave_the_old_one(process: Process) -> None:
    first, second = process.create("a"), process.create("a")
    assert (first.id, second.id) == ("a@1", "a@2")
    assert await process.resolve("a@1") == first
    assert await process.resolve("a") == second


async def test_concurrent_uploads_of_one_name_get_consecutive_versions(
    process: Process, other_process: Process
) -> None:
    def upload(number: int) -> tuple[int, float]:
        return (process, other_process)[number % 2].create("a", float(number)).version, float(number)

    with ThreadPoolExecutor(8) as pool:
        versions = dict(pool.map(upload, range(40)))
    assert sorted(versions) == list(range(1, 41))
    for version, value in versions.items():
        assert (await process.resolve(f"a@{version}")).adapter.vector()[0, 0] == value


def test_only_one_of_many_may_create_a_name(process: Process, other_process: Process) -> None:
    def create(number: int) -> bool:
        side = (process, other_process)[number % 2]
        try:
            made, new_name = [NewVersion("a", adapter())], Precondition(None, "*")
            side.write(lambda to: create_versions(side.database, to, 1, made, new_name))
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 1
    assert process.versions("a") == [1]


async def test_writes_of_another_process_are_seen_at_once(process: Process, other_process: Process) -> None:
    process.create("a")
    assert (await process.resolve("a")).version == (await process.resolve("a@1")).version == 1
    other_process.create("a")
    assert (await process.resolve("a")).version == 2
    other_process.delete("a@1")
    with pytest.raises(NotFound):
        await process.resolve("a@1")
    other_process.restore("a@1")
    assert (await process.resolve("a@1")).version == 1
    other_process.set_alias("a", "prod", {1: 1.0})
    assert (await process.resolve("a@prod")).version == 1
    other_process.set_alias("a", "prod", {2: 1.0})
    assert (await process.resolve("a@prod")).version == 2


async def test_what_is_in_memory_is_found_there_until_its_adapter_changes(process: Process) -> None:
    process.create("a")

    async def was_cached(name: str, version: int | None = None) -> bool:
        _, cached = await process.registry.look_up(1, Reference(name, version))
        return cached

    assert [await was_cached("a"), await was_cached("a"), await was_cached("a", 1)] == [False, True, True]
    process.create("b")
    assert await was_cached("a")
    process.create("a")
    assert [await was_cached("a"), await was_cached("a", 1), await was_cached("a", 1)] == [False, False, True]


async def test_nothing_of_the_time_that_a_restored_backup_undoes_is_served(
    process: Process, other_process: Process
) -> None:
    process.create("m", 1.0)
    backup = {table: process.read(lambda of, table=table: of.execute(sa.select(table)).all()) for table in RESTORED}
    process.create("m", 2.0)
    process.create("secret", 3.0)
    assert [(await process.resolve(name)).adapter.vector()[0, 0] for name in ("m", "secret")] == [2, 3]

    def restore(connection: sa.Connection) -> None:
        for table in reversed(RESTORED):
            connection.execute(table.delete())
        for table, rows in backup.items():
            connection.execute(table.insert(), [row._asdict() for row in rows])
        if not process.database.is_sqlite:  # which gives the lowest free id by itself
            last_id = "SELECT setval(pg_get_serial_sequence('adapters', 'id'), max(id)) FROM adapters"
            connection.execute(sa.text(last_id))

    other_process.write(restore)
    assert (await process.resolve("m")).id == "m@1"
    other = other_process.new_tenant("other")
    other.create("own", 4.0)
    other_process.create("m", 5.0)
    own, again = await process.of(other.tenant_id).resolve("own"), await process.resolve("m")
    assert (own.id, own.adapter.vector()[0, 0]) == ("own@1", 4)
    assert (again.id, again.adapter.vector()[0, 0]) == ("m@2", 5)


async def test_readers_among_writers_never_see_a_version_go_back(process: Process, other_process: Process) -> None:
    process.create("a")
    told = 1
    done = Event()

    def write() -> None:
        nonlocal told
        for number in range(60):
            told = (process, other_process)[number % 2].create("a").version
        done.set()

    async def watch(side: Process) -> None:
        seen = 0
        while not done.is_set():
            known = max(told, seen)
            seen = (await side.resolve("a")).version
            assert seen >= known
            await asyncio.sleep(0)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        await asyncio.gather(*(watch(side) for side in (process, other_process, process)))
        writing.result()
    assert (await process.resolve("a")).version == 61


def test_batch_is_stored_in_its_order_and_a_repeated_name_gets_successive_versions(process: Process) -> None:
    process.create("b", metadata={"old": "1"})
    items = [NewVersion(name, adapter(value), {"n": str(value)}) for value, name in enumerate("cabab", 1)]
    entries = process.write(lambda to: create_versions(process.database, to, 1, items))
    assert [entry.stored.id for entry in entries] == ["c@1", "a@1", "b@2", "a@2", "b@3"]
    assert [float(entry.stored.adapter.vector()[0, 0]) for entry in entries] == [1, 2, 3, 4, 5]
    with process.database.read() as connection:
        read = [entry_at(connection, 1, Reference(made.stored.name), made.stored.version) for made in entries]
    assert read == entries
    page = process.registry.list(1)
    assert [(entry.stored.id, dict(entry.stored.metadata)) for entry in page.items] == [
        ("a@2", {"n": "4"}), ("b@3", {"n": "5"}), ("c@1", {"n": "1"}),
    ]  # fmt: skip
    with process.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(ADAPTER_METADATA)).scalar() == 3
        assert connection.execute(sa.select(TENANTS.c.adapter_count)).scalar() == 3


def test_overlapping_batches_wait_for_each_other_and_lose_nothing(process: Process, other_process: Process) -> None:
    names = [f"n{number}" for number in range(30)]

    def store(number: int) -> None:
        side = (process, other_process)[number % 2]
        items = [NewVersion(name, adapter()) for name in (names if number % 3 else reversed(names))]
        side.write(lambda to: create_versions(side.database, to, 1, items))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(store, range(12)))
    assert {entry.stored.version for entry in process.registry.list(1, limit=100).items} == {12}


def test_tenants_limit_counts_adapters_that_are_not_deleted(process: Process) -> None:
    tenant = process.new_tenant("acme", max_adapters=2)
    tenant.create("a"), tenant.create("b"), tenant.create("b")
    with pytest.raises(BadRequest, match="3 adapters, expected at most 2") as caught:
        tenant.create("c")
    assert caught.value.code == "adapter_limit_reached"
    tenant.delete("a")
    tenant.create("c")
    with pytest.raises(BadRequest, match="at most 2"):
        tenant.restore("a")
    with pytest.raises(BadRequest, match="4 adapters"):
        items = [NewVersion(name, adapter()) for name in "bcde"]
        tenant.write(lambda to: create_versions(tenant.database, to, tenant.tenant_id, items))
    assert [entry.stored.id for entry in tenant.registry.list(tenant.tenant_id).items] == ["b@2", "c@1"]
    process.create("other"), process.create("another"), process.create("third")


def test_tenants_limit_holds_against_uploads_at_once(process: Process, other_process: Process) -> None:
    tenant = process.new_tenant("acme", max_adapters=5)

    def upload(number: int) -> bool:
        try:
            (tenant, other_process.of(tenant.tenant_id))[number % 2].create(f"n{number}")
        except BadRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(upload, range(20))) == 5
    assert len(tenant.registry.list(tenant.tenant_id).items) == 5


def test_pages_hold_every_adapter_once_while_others_are_inserted(process: Process, other_process: Process) -> None:
    wanted = [f"n{number:03}" for number in range(60)]
    process.write(lambda to: create_versions(process.database, to, 1, [NewVersion(name, adapter()) for name in wanted]))
    stop = Event()

    def insert() -> None:
        number = 0
        while not stop.is_set():
            other_process.create(f"n{number % 60:03}x{number}")
            other_process.create(f"n{number % 60:03}")
            number += 7

    writer = Thread(target=insert)
    writer.start()
    listed: list[str] = []
    has_more = True
    while has_more:
        page = process.registry.list(1, after=listed[-1] if listed else "", limit=7)
        listed += [entry.stored.name for entry in page.items]
        has_more = page.has_more
    stop.set()
    writer.join()
    assert listed == sorted(set(listed))
    assert set(wanted) <= set(listed)


def test_versions_come_newest_first_in_pages(process: Process) -> None:
    for _ in range(5):
        process.create("a")
    first = process.registry.versions(1, Reference("a"), limit=2)
    second = process.registry.versions(1, Reference("a"), before=first.items[-1].stored.version, limit=3)
    assert [entry.stored.version for entry in first.items] == [5, 4] and first.has_more
    assert [entry.stored.version for entry in second.items] == [3, 2, 1] and not second.has_more
    assert process.registry.versions(1, Reference("a"), before=1).items == ()


def test_search_is_by_prefix_and_by_the_latest_versions_metadata(process: Process) -> None:
    process.create("acme/a", metadata={"team": "x", "stage": "prod"})
    process.create("acme/b", metadata={"team": "x", "stage": "test"})
    process.create("acme_z", metadata={"team": "x"})
    process.create("acme/c", metadata={"team": "x"})
    process.create("acme/c", metadata={"team": "y"})
    process.create("acme.d")
    process.new_tenant("other").create("acme/e", metadata={"team": "x"})

    def found(prefix: str = "", **metadata: str) -> list[str]:
        return [entry.stored.id for entry in process.registry.list(1, prefix=prefix, metadata=metadata).items]

    assert found("acme/") == ["acme/a@1", "acme/b@1", "acme/c@2"]
    assert found("acme/a") == ["acme/a@1"]
    assert found("acmf") == []
    assert found(team="x") == ["acme/a@1", "acme/b@1", "acme_z@1"]
    assert found("acme/", team="x", stage="prod") == ["acme/a@1"]
    assert found(team="x", stage="none") == []
    process.delete("acme/a")
    assert found(team="x") == ["acme/b@1", "acme_z@1"]


async def test_another_tenants_adapters_are_missing_unless_they_are_public(process: Process) -> None:
    acme, globex = process.new_tenant("acme"), process.new_tenant("globex")
    globex.create("open", 2.0), globex.create("closed"), acme.create("open", 1.0)
    globex.write(lambda to: set_public(to, globex.tenant_id, Reference("open"), True, NO_PRECONDITION))
    stored = await acme.resolve("~globex/open@1")
    assert (stored.id, float(stored.adapter.vector()[0, 0])) == ("~globex/open@1", 2.0)
    assert (await acme.resolve("open")).adapter.vector()[0, 0] == 1.0
    assert (await globex.resolve("~globex/closed")).id == "closed@1"
    for missing in ("~globex/closed", "~globex/none", "~nobody/open", "~globex/open@2", "closed"):
        with pytest.raises(NotFound):
            await acme.resolve(missing)
    assert acme.versions("~globex/open") == [1]
    for missing in ("~globex/closed", "~globex/none", "~nobody/open", "closed"):
        with pytest.raises(NotFound):
            acme.versions(missing)
    with pytest.raises(NotFound):
        acme.versions("~globex/open", deleted=True)
    assert [entry.stored.id for entry in process.registry.list_public().items] == ["~globex/open@1"]
    assert process.registry.list_public(after=("globex", "open")).items == ()
    globex.write(lambda to: set_public(to, globex.tenant_id, Reference("open"), False, NO_PRECONDITION))
    with pytest.raises(NotFound):
        await acme.resolve("~globex/open@1")


def test_listing_and_search_use_indexes(process: Process) -> None:
    if not process.database.is_sqlite:
        pytest.skip("PostgreSQL chooses by statistics, which a small table does not have")
    for row in range(2):
        process.create(f"n{row}", metadata={"team": "x"})
    statements: list[tuple[str, object]] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def keep(_c: object, _cursor: object, statement: str, parameters: object, _x: object, _m: object) -> None:
        if statement.startswith("SELECT adapters.name"):
            statements.append((statement, parameters))

    process.registry.list(1, after="a", prefix="n", metadata={"team": "x"})
    process.registry.list(1)
    process.registry.list_public(after=("default", "n0"), metadata={"team": "x"})
    process.registry.versions(1, Reference("n0"), before=2)
    sa.event.remove(sa.Engine, "before_cursor_execute", keep)
    assert len(statements) == 4
    with process.database.read() as connection:
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
            assert not [step for step in plan if step[3].startswith("SCAN")], plan


@pytest.mark.parametrize("metadata", [{}, {"text": "x" * 96}])
async def test_what_is_remembered_is_bounded_by_the_bytes_of_vectors_and_metadata(
    process: Process, metadata: dict[str, str]
) -> None:
    for name in ("a", "b", "c"):
        process.create(name, metadata=metadata)
    # A vector has 26 bytes, this metadata 100; there is room for two.
    room = 2 * (26 + sum(map(len, [*metadata, *metadata.values()]))) + 25
    small = Registry(process.database, process.reads, max_cached_bytes=room)
    for name in ("a", "b", "c"):
        await small.look_up(1, Reference(name))
    assert [(await small.look_up(1, Reference(name)))[1] for name in ("c", "b", "a")] == [True, True, False]
