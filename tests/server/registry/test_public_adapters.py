"""Adapters of other tenants: usable when public, and otherwise exactly as if they did not exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.core.errors import NotFound
from server.core.names import Reference, parse_reference
from server.core.principal import DEFAULT_TENANT_ID
from server.db.database import Database
from server.db.point_reads import AdapterRow, SqlitePointReads
from server.db.tables import TENANTS
from server.registry.alias_changes import remove_alias, set_alias
from server.registry.deletion import delete, purge
from server.registry.etags import NO_PRECONDITION
from server.registry.rows import set_public
from server.registry.store import Registry
from tests.server.conftest import Store

CHAT = "/v1/chat/completions"
Remove = Callable[[Connection, int, Reference], list[int]]


@dataclass(frozen=True)
class Globex:
    """Another tenant, with the adapters `open` and `closed`, each with the versions 1 and 2 and the alias prod."""

    tenant_id: int


@pytest.fixture(autouse=True)
def globex(app_database: Database, store: Store, factors: Factors) -> Globex:
    def tenant(connection: Connection) -> int:
        values = {"name": "globex", "created_at": 0, "adapter_count": 0, "weight": 1.0}
        return int(connection.execute(TENANTS.insert().values(values).returning(TENANTS.c.id)).scalar_one())

    tenant_id = app_database.transact(tenant)
    for name in ("open", "closed"):
        for value in (1.0, 2.0):
            vector = torch.full((13, 1), value)
            made = Adapter.from_vector(vector, Recipe(), factors.digest, "bfloat16")
            store(name, made, {"team": "x"}, tenant_id)
            store("mine/first", made, {"team": "x"}, DEFAULT_TENANT_ID)
        app_database.transact(lambda to, name=name: set_alias(to, tenant_id, Reference(name), "prod", {1: 1.0}))
    app_database.transact(lambda to: set_public(to, tenant_id, Reference("open"), True, NO_PRECONDITION))
    return Globex(tenant_id)


@pytest.mark.parametrize(
    ("reference", "served"),
    [
        ("~globex/open", "~globex/open@2"),
        ("~globex/open@1", "~globex/open@1"),
        ("~globex/open@prod", "~globex/open@1"),
        ("~default/mine/first", "mine/first@4"),
    ],
)
async def test_public_adapter_is_used_by_its_tenant_and_name(
    client: httpx.AsyncClient, reference: str, served: str
) -> None:
    for body in ({"adapter": reference}, {"model": reference}):
        response = await client.post(CHAT, json={"messages": [], **body})
        assert response.status_code == 200, response.text
        assert response.headers["x-tinylora-adapter"] == response.json()["model"] == served
    got = await client.get(f"/adapters/{reference}")
    assert got.json()["id"] == served
    assert (
        await client.get(f"/adapters/{reference}", headers={"if-none-match": got.headers["etag"]})
    ).status_code == 304
    assert (await client.get(f"/adapters/{reference}/vector")).headers["x-tinylora-adapter"] == served
    assert (await client.get(f"/v1/models/{reference}")).json()["root"] == served


async def test_versions_and_aliases_of_a_public_adapter_are_read_by_anyone(client: httpx.AsyncClient) -> None:
    page = (await client.get("/adapters/~globex/open/versions?limit=1")).json()
    assert [item["id"] for item in page["data"]] == ["~globex/open@2"]
    page = (await client.get("/adapters/~globex/open/versions", params={"after": page["last_id"]})).json()
    assert [item["id"] for item in page["data"]] == ["~globex/open@1"]
    assert (await client.get("/adapters/~globex/open/aliases/prod")).json()["id"] == "~globex/open@prod"


PRIVATE = ("~globex/closed", "~globex/closed@1", "~globex/closed@prod", "~globex/open@9", "~globex/open@nothing")
READS = (
    ("GET", "/adapters/{}", None),
    ("GET", "/adapters/{}/vector", None),
    ("GET", "/v1/models/{}", None),
    ("POST", CHAT, {"messages": [], "adapter": "{}"}),
    ("POST", CHAT, {"messages": [], "model": "{}"}),
    ("POST", CHAT, {"messages": [], "adapter": [{"adapter": "{}", "weight": 1}]}),
)
CHANGES = (
    ("GET", "/adapters/{}/versions", None),
    ("GET", "/adapters/{}/versions?deleted=true", None),
    ("GET", "/adapters/{}/aliases", None),
    ("GET", "/adapters/{}/aliases/prod", None),
    ("GET", "/adapters/{}/aliases/prod/history", None),
    ("PUT", "/adapters/{}/aliases/prod", {"version": 1}),
    ("DELETE", "/adapters/{}/aliases/prod", None),
    ("POST", "/adapters/{}/aliases/prod/rollback", None),
    ("PATCH", "/adapters/{}", {"public": True}),
    ("DELETE", "/adapters/{}", None),
    ("DELETE", "/adapters/{}@1", None),
    ("DELETE", "/adapters/{}?purge=true", None),
    ("POST", "/adapters/{}/restore", None),
)


async def answer(client: httpx.AsyncClient, method: str, path: str, body: object, reference: str) -> tuple[object, ...]:
    """All of the answer but what must differ."""

    def fill(value: object) -> object:
        if isinstance(value, str):
            return value.replace("{}", reference)
        if isinstance(value, list):
            return [fill(item) for item in value]
        return {key: fill(item) for key, item in value.items()} if isinstance(value, dict) else value

    fields = {} if body is None else {"json": fill(body)}
    response = await client.request(method, path.replace("{}", reference), **fields)  # type: ignore[arg-type]
    headers = sorted(
        (key, value) for key, value in response.headers.items() if key not in ("x-request-id", "content-length")
    )
    name = re.escape(reference.partition("@")[0])
    return response.status_code, headers, re.sub(name, "NAME", response.text)


@pytest.mark.parametrize(("method", "path", "body"), READS)
async def test_private_adapter_reads_as_one_that_never_was(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    for private in PRIVATE:
        _, _, which = private.partition("@")
        never = f"~globex/never{'@' if which else ''}{which}"
        expected = await answer(client, method, path, body, never)
        assert expected[0] == 404
        for reference in (private, f"~nobody/closed{'@' if which else ''}{which}"):
            for _ in range(2):
                assert await answer(client, method, path, body, reference) == expected


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
async def test_private_adapter_is_changed_like_one_that_never_was(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    expected = await answer(client, method, path, body, "~globex/never")
    assert expected == await answer(client, method, path, body, "never")
    assert expected[0] == 404
    assert await answer(client, method, path, body, "~globex/closed") == expected
    assert await answer(client, method, path, body, "~nobody/closed") == expected


@pytest.mark.parametrize(("method", "path", "body"), [change for change in CHANGES if change[0] != "GET"])
async def test_public_adapter_is_changed_by_its_owner_only(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    before = (await client.get("/adapters/~globex/open")).headers["etag"]
    response = await client.request(method, path.replace("{}", "~globex/open"), **({"json": body} if body else {}))  # type: ignore[arg-type]
    assert (response.status_code, response.json()["error"]["code"]) == (403, "not_the_owner")
    assert (await client.get("/adapters/~globex/open")).headers["etag"] == before


@pytest.mark.parametrize(
    "change", ["DELETE /adapters/{}", "DELETE /adapters/{}?purge=true", "POST /adapters/{}/restore"]
)
async def test_version_that_nobody_else_can_read_is_not_found_by_others_either(
    client: httpx.AsyncClient, app_database: Database, globex: Globex, change: str
) -> None:
    app_database.transact(lambda to: delete(to, globex.tenant_id, Reference("open", version=2)))
    method, path = change.split()
    for number in (2, 9):
        never = await answer(client, method, path, None, f"~globex/never@{number}")
        assert never[0] == 404
        assert await answer(client, method, path, None, f"~globex/open@{number}") == never
    assert (await client.request(method, path.replace("{}", "~globex/open@1"))).status_code == 403


@pytest.mark.parametrize("change", ["DELETE /adapters/{}/aliases/none", "POST /adapters/{}/aliases/none/rollback"])
async def test_alias_that_a_public_adapter_lacks_is_not_found(client: httpx.AsyncClient, change: str) -> None:
    await client.post("/adapters", json={"name": "own", "vector": [1.0] * 13})
    method, path = change.split()
    status, headers, text = await answer(client, method, path, None, "own")
    assert (status, "alias_not_found" in str(text)) == (404, True)
    assert await answer(client, method, path, None, "~globex/open") == (status, headers, text)


@pytest.mark.parametrize("remove", [delete, purge])
async def test_public_adapter_is_found_by_nobody_else_once_its_last_version_is_deleted(
    client: httpx.AsyncClient, app_database: Database, globex: Globex, store: Store, factors: Factors, remove: Remove
) -> None:
    app_database.transact(lambda to: remove_alias(to, globex.tenant_id, Reference("open"), "prod"))
    for version in (2, 1):
        assert (await client.get("/adapters/~globex/open")).json()["id"] == f"~globex/open@{version}"
        app_database.transact(lambda to, at=version: remove(to, globex.tenant_id, Reference("open", version=at)))
    new = Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16")
    for _ in range(2):
        for method, path, body in (*READS, *CHANGES, ("DELETE", "/v1/models/{}", None)):
            never = await answer(client, method, path, body, "~globex/never")
            assert never[0] == 404
            assert await answer(client, method, path, body, "~globex/open") == never
        store("open", new, {}, globex.tenant_id)
    assert (await client.get("/adapters?public=true")).json()["data"] == []


async def test_upload_to_another_tenant_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/adapters", json={"name": "~globex/open", "vector": [1.0] * 13})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "name")


async def test_public_adapters_of_all_tenants_are_listed_with_their_tenant(client: httpx.AsyncClient) -> None:
    await client.patch("/adapters/mine/first", json={"public": True})
    await client.post("/adapters", json={"name": "mine/second", "vector": [1.0] * 13})
    patched = await client.patch("/adapters/mine/second", json={"public": True})
    assert patched.json()["public"] is True
    await client.patch("/adapters/mine/second", json={"public": False})
    first = (await client.get("/adapters?public=true&limit=1")).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (["~default/mine/first@4"], True)
    rest = (await client.get("/adapters", params={"public": True, "after": first["last_id"]})).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["~globex/open@2"], False)
    for query, found in (("prefix=o", ["~globex/open@2"]), ("metadata.team=y", []), ("prefix=p", [])):
        listing = (await client.get(f"/adapters?public=true&{query}")).json()
        assert [item["id"] for item in listing["data"]] == found
    own = (await client.get("/adapters")).json()
    assert [item["id"] for item in own["data"]] == ["mine/first@4", "mine/second@1"]
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"][2:]] == [
        "mine/first",
        "mine/second",
    ]


async def test_adapter_that_is_no_longer_public_is_gone_in_the_next_request(
    client: httpx.AsyncClient, app_database: Database, globex: Globex
) -> None:
    assert (await client.post(CHAT, json={"messages": [], "adapter": "~globex/open"})).status_code == 200
    app_database.transact(lambda to: set_public(to, globex.tenant_id, Reference("open"), False, NO_PRECONDITION))
    assert (await client.post(CHAT, json={"messages": [], "adapter": "~globex/open"})).status_code == 404


async def test_metrics_tell_adapters_of_one_name_apart(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", json={"name": "open", "vector": [1.0] * 13})
    for reference in ("open", "~globex/open"):
        await client.post(CHAT, json={"messages": [], "adapter": reference})
    text = (await client.get("/metrics")).text
    assert 'adapter="open"' in text and 'adapter="~globex/open"' in text


class RecordedReads(SqlitePointReads):
    """Point reads that say what they were asked."""

    def __init__(self, path: str, statements: list[str]) -> None:
        super().__init__(path)
        self._statements = statements

    async def _row(self, statement: str, *parameters: int | str) -> Any:
        self._statements.append(statement)
        return await super()._row(statement, *parameters)


async def test_as_much_is_read_for_a_private_adapter_as_for_one_that_never_was(
    app_database: Database,
) -> None:
    statements: list[str] = []
    assert app_database.url.database is not None
    reads = RecordedReads(app_database.url.database, statements)
    registry = Registry(app_database, reads)

    async def read_for(asked: str) -> list[str]:
        statements.clear()
        with pytest.raises(NotFound):
            await registry.look_up(DEFAULT_TENANT_ID, parse_reference(asked, "adapter"))
        return list(statements)

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    for reference in PRIVATE[:3] * 2:
        assert await read_for(reference) == await read_for(reference.replace("closed", "never"))
        assert await read_for(reference) == await read_for(reference.replace("globex", "nobody"))
    sa.event.remove(sa.Engine, "before_cursor_execute", note)
    await reads.close()


class OvertakenReads(SqlitePointReads):
    """Where the adapter is made private just after its row was read."""

    def __init__(self, path: str, make_private: Callable[[], None]) -> None:
        super().__init__(path)
        self._make_private = make_private

    async def adapter(self, tenant_id: int, name: str) -> AdapterRow | None:
        found = await super().adapter(tenant_id, name)
        self._make_private()
        return found


async def test_an_adapter_made_private_while_it_is_looked_up_is_not_served(
    app_database: Database, globex: Globex
) -> None:
    def make_private() -> None:
        app_database.transact(lambda to: set_public(to, globex.tenant_id, Reference("open"), False, NO_PRECONDITION))

    assert app_database.url.database is not None
    reads = OvertakenReads(app_database.url.database, make_private)
    with pytest.raises(NotFound):
        await Registry(app_database, reads).look_up(DEFAULT_TENANT_ID, parse_reference("~globex/open", "adapter"))
    await reads.close()


async def test_public_adapters_of_a_disabled_tenant_are_gone_until_it_is_enabled(
    client: httpx.AsyncClient, app_database: Database, globex: Globex
) -> None:
    def disable(at: int | None) -> None:
        change = TENANTS.update().where(TENANTS.c.id == globex.tenant_id).values(disabled_at=at)
        app_database.transact(lambda to: to.execute(change))

    assert (await client.post(CHAT, json={"messages": [], "adapter": "~globex/open"})).status_code == 200
    disable(1)
    for method, path, body in READS + CHANGES:
        never = await answer(client, method, path, body, "~globex/never")
        assert await answer(client, method, path, body, "~globex/open") == never
        assert never[0] == 404
    assert (await client.get("/adapters?public=true")).json()["data"] == []
    disable(None)
    assert (await client.post(CHAT, json={"messages": [], "adapter": "~globex/open"})).status_code == 200
