"""Tenants and keys in SQLite and PostgreSQL, below HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from server.auth.api_keys import (
    NewKey,
    any_key,
    create_key,
    digest_of,
    find_key,
    list_keys,
    new_key_id,
    new_secret,
    principal_of_row,
    revoke_key,
)
from server.auth.tenants import create_tenant, find_tenant, list_tenants, update_tenant
from server.core.errors import BadRequest, NotFound
from server.core.principal import KeyScope, Limits
from server.db.database import Database
from server.db.point_reads import open_point_reads
from server.db.tables import API_KEYS


def make_key(database: Database, tenant: str, *scopes: KeyScope, expires_at: int | None = None) -> NewKey:
    key = NewKey(new_key_id(), new_secret(), "of a test", scopes or ("infer",), expires_at, Limits(1, 2, 3))
    with database.write() as connection:
        create_key(connection, find_tenant(connection, tenant), key)
    return key


def make_tenant(database: Database, name: str, **quotas: float) -> None:
    with database.write() as connection:
        create_tenant(database, connection, name, quotas)


async def test_a_key_is_read_with_all_that_its_principal_needs(database: Database) -> None:
    make_tenant(database, "acme", max_adapters=7, requests_per_minute=4, tokens_per_minute=5, weight=2.5)
    key = make_key(database, "acme", "infer", "train")
    reads = open_point_reads(database)
    row = await reads.key(digest_of(key.secret.encode()), 0)
    assert await reads.key(digest_of(b"another"), 0) is None
    await reads.close()
    assert row is not None
    principal = principal_of_row(row, at=0)
    assert principal is not None
    assert (principal.key_id, principal.scopes, principal.key_limits) == (key.id, {"infer", "train"}, Limits(1, 2, 3))
    tenant = principal.tenant
    assert (tenant.name, tenant.weight, tenant.limits, tenant.max_adapters) == ("acme", 2.5, Limits(4, 5), 7)


async def test_a_key_works_until_its_last_second(database: Database) -> None:
    key = make_key(database, "default", expires_at=1000)
    reads = open_point_reads(database)
    row = await reads.key(digest_of(key.secret.encode()), 0)
    await reads.close()
    assert row is not None
    assert [principal_of_row(row, at) is not None for at in (0, 999.9, 1000, 1001)] == [True, True, False, False]


async def test_revoking_and_disabling_are_seen_by_the_next_read(database: Database) -> None:
    make_tenant(database, "acme")
    key = make_key(database, "acme")
    reads = open_point_reads(database)

    async def works() -> bool:
        row = await reads.key(digest_of(key.secret.encode()), 0)
        return row is not None and principal_of_row(row, at=0) is not None

    seen = [await works()]
    for disabled in (True, False):
        with database.write() as connection:
            update_tenant(connection, "acme", {}, disabled=disabled)
        seen.append(await works())
    with database.write() as connection:
        revoke_key(connection, find_tenant(connection, "acme"), key.id)
    seen.append(await works())
    await reads.close()
    assert seen == [True, False, True, False]


def test_of_two_who_make_a_tenant_at_once_one_is_refused(database: Database) -> None:
    def make(_: int) -> str:
        try:
            make_tenant(database, "acme")
        except BadRequest as error:
            return error.code
        return "made"

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(make, range(4))) == ["made", *["tenant_exists"] * 3]


def test_tenants_are_listed_in_the_order_of_their_bytes(database: Database) -> None:
    for name in ("b", "B", "a.b", "a-b", "a_b"):
        make_tenant(database, name)
    names = ["B", "a-b", "a.b", "a_b", "b", "default"]
    with database.read() as connection:
        rows, has_more = list_tenants(connection, "", 10)
        after, _ = list_tenants(connection, "a.b", 2)
    assert ([row.name for row in rows], has_more) == (names, False)
    assert [row.name for row in after] == names[3:5]


def test_keys_made_in_one_second_are_listed_once_each(database: Database) -> None:
    made = {make_key(database, "default").id for _ in range(7)}
    with database.write() as connection:
        connection.execute(API_KEYS.update().values(created_at=1))
    listed: list[str] = []
    with database.read() as connection:
        tenant, has_more = find_tenant(connection, "default"), True
        while has_more:
            rows, has_more = list_keys(connection, tenant, listed[-1] if listed else None, 3)
            listed += [row.id for row in rows]
    assert (len(listed), set(listed)) == (7, made)


@pytest.mark.parametrize("key_id", ["key_nobodys", "key_\0", "\0", ""])
def test_a_key_that_is_none_is_not_found(database: Database, key_id: str) -> None:
    with database.write() as connection:
        tenant = find_tenant(connection, "default")
        for look in (find_key, revoke_key):
            with pytest.raises(NotFound):
                look(connection, tenant, key_id)


def test_whether_there_is_any_key(database: Database) -> None:
    with database.read() as connection:
        assert not any_key(connection)
    make_key(database, "default")
    with database.read() as connection:
        assert any_key(connection)


def test_a_refused_admin_key_is_not_stored(database: Database) -> None:
    make_tenant(database, "acme")
    with pytest.raises(BadRequest, match="'default'"):
        make_key(database, "acme", "infer", "admin")
    with database.read() as connection:
        assert not any_key(connection)
