"""The audit log over HTTP: every change once, newest first, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.core.principal import Tenant
from server.core.settings import Settings
from server.db.database import Database
from server.db.tables import AUDIT_LOG, TENANTS
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.old_database import database_at

NO_ENTRIES = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@asynccontextmanager
async def client_of_tenants(app: FastAPI, acme: Tenant, globex: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    act_as(
        app,
        {
            "acme": principal(acme, "key_a"),
            "globex": principal(globex, "key_g"),
            "root": principal(globex, None, "admin"),
        },
    )
    async with client_of(app) as client:
        yield client


@pytest.fixture
async def client(app: FastAPI, app_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    acme, globex = new_tenant(app_database, "acme"), new_tenant(app_database, "globex")
    async with client_of_tenants(app, acme, globex) as client:
        yield client


async def upload(client: httpx.AsyncClient, who: str, name: str, **headers: str) -> httpx.Response:
    return await client.post("/adapters", json={"name": name, "vector": [0.5] * 13}, headers={HEADER: who, **headers})


async def audit(client: httpx.AsyncClient, who: str, **query: object) -> dict[str, Any]:
    response = await client.get("/v1/audit", params=query, headers={HEADER: who})  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


async def targets(client: httpx.AsyncClient, who: str, **query: object) -> list[str]:
    return [entry["target"] for entry in (await audit(client, who, **query))["data"]]


async def ids(client: httpx.AsyncClient, who: str, **query: object) -> list[str]:
    return [entry["id"] for entry in (await audit(client, who, **query))["data"]]


async def test_an_entry_says_who_did_what_in_which_request(client: httpx.AsyncClient) -> None:
    await upload(client, "acme", "math", **{"x-request-id": "r-1"})
    await upload(client, "acme", "math")
    await client.delete("/adapters/none", headers={HEADER: "acme"})
    page = await audit(client, "acme")
    assert [entry["detail"] for entry in page["data"]] == [{"version": 2}, {"version": 1}]
    first = page["data"][1]
    assert first["created_at"] > 1_700_000_000
    assert {name: first[name] for name in ("tenant", "api_key_id", "action", "target", "request_id")} == {
        "tenant": "acme", "api_key_id": "key_a", "action": "adapter.create", "target": "math", "request_id": "r-1",
    }  # fmt: skip


async def test_an_adapter_has_one_name_however_it_was_called(client: httpx.AsyncClient) -> None:
    for path in ("/adapters/math", "/adapters/~acme/math", "/v1/models/math", "/v1/models/~acme/math"):
        await upload(client, "acme", "math")
        assert (await client.delete(path, headers={HEADER: "acme"})).status_code == 200, path
    assert await targets(client, "acme", target="math", action="adapter.delete") == ["math"] * 4


async def test_a_tenant_sees_its_own_and_an_admin_all_if_asked_for(client: httpx.AsyncClient) -> None:
    for who in ("acme", "globex", "root"):
        await upload(client, who, f"of-{who}")
    assert await targets(client, "acme") == ["of-acme"]
    assert await targets(client, "globex") == await targets(client, "root") == ["of-root", "of-globex"]
    assert await targets(client, "root", all_tenants=True) == ["of-root", "of-globex", "of-acme"]
    response = await client.get("/v1/audit?all_tenants=true", headers={HEADER: "acme"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_permissions")


async def test_pages_are_complete_although_entries_are_added_meanwhile(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await upload(client, "acme", f"a{number}")
    page = await audit(client, "acme", limit=2)
    found = [entry["target"] for entry in page["data"]]
    while page["has_more"]:
        await upload(client, "acme", "later")
        page = await audit(client, "acme", limit=2, after=page["last_id"])
        found += [entry["target"] for entry in page["data"]]
    assert found == ["a4", "a3", "a2", "a1", "a0"]
    assert await audit(client, "acme", after=page["last_id"]) == NO_ENTRIES


async def test_ids_do_not_show_how_much_others_do(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await upload(client, "acme", f"a{number}")
        for _ in range(number):
            await upload(client, "globex", "busy")
    numbers = [int(id_.removeprefix("audit_"), 16) for id_ in await ids(client, "acme")]
    # What others did in between is one and two entries.
    assert min(later - earlier for later, earlier in pairwise(numbers)) > 2**32


async def test_ids_of_others_are_answered_as_ids_of_none(client: httpx.AsyncClient) -> None:
    for who in ("globex", "acme", "globex"):
        await upload(client, who, f"of-{who}")
    newest, oldest = await ids(client, "globex")
    assert await targets(client, "globex", after=newest) == ["of-globex"]
    never = f"audit_{'0' * 28}"
    for after in (newest, oldest, never):
        assert await audit(client, "acme", after=after) == NO_ENTRIES
    assert await targets(client, "root", all_tenants=True, after=newest) == ["of-acme", "of-globex"]


async def test_entries_from_before_these_ids_keep_theirs_and_pages_go_on_from_one_kind_to_the_other(
    settings: Settings, engine: FakeEngine, module_database_url: str
) -> None:
    acme, globex = migrated_with_old_entries(module_database_url, "of-acme", "of-globex", "of-acme", "of-globex")
    database = Database(module_database_url)
    async with client_of_tenants(create_app(settings, engine, database), acme, globex) as client:
        for who in ("globex", "acme", "globex", "acme"):
            await upload(client, who, f"new-of-{who}")
        found: list[str] = []
        after: dict[str, str] = {}
        for left in (3, 2, 1, 0):
            page = await audit(client, "acme", limit=1, **after)
            assert ([entry["target"] for entry in page["data"]], page["has_more"]) == (
                ["new-of-acme" if left > 1 else "of-acme"],
                left > 0,
            )
            found.append(page["last_id"])
            after = {"after": page["last_id"]}
        assert found == await ids(client, "acme") and found[2:] == ["audit_3", "audit_1"]
        everyones = await ids(client, "root", all_tenants=True)
        assert await ids(client, "root", all_tenants=True, after=everyones[3]) == [f"audit_{n}" for n in (4, 3, 2, 1)]
        # Of its neighbour, and never given: neither says whether there is such an entry.
        for other in ("audit_2", "audit_4", "audit_5", "audit_999999"):
            assert await audit(client, "acme", after=other) == NO_ENTRIES
    database.close()


def migrated_with_old_entries(url: str, *targets: str) -> tuple[Tenant, Tenant]:
    """acme and globex in a new database of a version that shows numbers of rows, with an entry for each target."""
    tenants = []
    with database_at(url, "0014") as connection:
        for name in ("acme", "globex"):
            new = TENANTS.insert().values(name=name, created_at=0, adapter_count=0, weight=1.0)
            tenants.append(Tenant(connection.execute(new.returning(TENANTS.c.id)).scalar_one(), name))
        of_name = {f"of-{tenant.name}": tenant.id for tenant in tenants}
        for target in targets:
            row = {"created_at": 0, "tenant_id": of_name[target], "action": "test", "target": target}
            connection.execute(AUDIT_LOG.insert().values(**row, request_id="", detail="{}"))
    return tenants[0], tenants[1]


async def test_entries_are_filtered_by_action_target_and_time(
    client: httpx.AsyncClient, app_database: Database
) -> None:
    for name in ("team/a", "team_b", "Team/c"):
        await upload(client, "acme", name)
    await client.delete("/adapters/team/a", headers={HEADER: "acme"})
    with app_database.write() as connection:
        for created_at, target in ((100, "old"), (200, "older/x"), (300, "old%")):
            row = {"created_at": created_at, "tenant_id": 2, "action": "test", "target": target}
            connection.execute(AUDIT_LOG.insert().values(**row, request_id="", detail="{}"))
    assert await targets(client, "acme", target="team/") == ["team/a", "team/a"]
    assert await targets(client, "acme", action="adapter.delete") == ["team/a"]
    assert await targets(client, "acme", target="team_") == ["team_b"]
    assert await targets(client, "acme", target="old", until=300) == ["older/x", "old"]
    assert await targets(client, "acme", since=200, until=301, action="test") == ["old%", "older/x"]
    assert await targets(client, "acme", target="old%") == ["old%"]
    assert await targets(client, "acme", action="nothing") == []


@pytest.mark.parametrize(
    "query",
    [
        {"after": "5"},
        {"after": f"audit_{9 * 10**18}"},
        {"after": f"audit_{'F' * 28}"},
        {"limit": 101},
        {"since": "monday"},
        {"target": "\0"},
        {"who": "me"},
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(client: httpx.AsyncClient, query: dict[str, Any]) -> None:
    response = await client.get("/v1/audit", params=query, headers={HEADER: "acme"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(query)))
