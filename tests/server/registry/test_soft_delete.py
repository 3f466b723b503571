"""Deleted adapters over HTTP: gone for every reader, restored as they were, purged for good."""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.db.database import Database
from server.db.tables import ADAPTER_METADATA, ADAPTER_VERSIONS, ALIAS_MOVES, ALIASES, TENANTS


async def upload(client: httpx.AsyncClient, name: str = "acme/math", value: float = 1.0, **fields: Any) -> Any:
    response = await client.post("/adapters", json={"name": name, "vector": [value] * 13, **fields})
    assert response.status_code == 201, response.text
    return response.json()


async def status(client: httpx.AsyncClient, reference: str) -> int:
    codes = {
        (await client.get(f"/adapters/{reference}")).status_code,
        (await client.get(f"/adapters/{reference}/vector")).status_code,
        (await client.post("/v1/chat/completions", json={"messages": [], "adapter": reference})).status_code,
        (await client.get(f"/v1/models/{reference}")).status_code,
    }
    (code,) = codes
    return code


async def ids(client: httpx.AsyncClient, path: str) -> list[str]:
    return [item["id"] for item in (await client.get(path)).json()["data"]]


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


async def test_deleted_version_is_gone_until_it_is_restored(client: httpx.AsyncClient) -> None:
    first, second = await upload(client), await upload(client, value=2.0)
    deleted = await client.delete("/adapters/acme/math@2")
    assert deleted.json()["versions"] == [2]
    assert (await status(client, "acme/math@2"), await status(client, "acme/math@1")) == (404, 200)
    assert (await client.get("/adapters/acme/math")).json() == first
    (listed,) = (await client.get("/adapters/acme/math/versions?deleted=true")).json()["data"]
    assert listed == second | {"deleted_at": pytest.approx(1_800_000_000, rel=0.2)}
    restored = await client.post("/adapters/acme/math@2/restore")
    assert (restored.status_code, restored.json()) == (200, second)
    assert (await client.get("/adapters/acme/math")).json() == second
    assert await ids(client, "/adapters/acme/math/versions?deleted=true") == []


async def test_restoring_an_adapter_brings_back_what_its_last_deletion_took(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await upload(client, metadata={"team": "x"})
    await client.put("/adapters/acme/math/aliases/prod", json={"version": 3})
    await client.delete("/adapters/acme/math@1")
    assert (await client.delete("/adapters/acme/math")).json()["versions"] == [2, 3]
    assert {await status(client, f"acme/math{which}") for which in ("", "@1", "@2", "@3", "@prod")} == {404}
    for path in ("", "/aliases", "/aliases/prod", "/versions"):
        assert (await client.get(f"/adapters/acme/math{path}")).status_code == 404
    assert await ids(client, "/adapters") == await ids(client, "/adapters?metadata.team=x") == []
    assert await ids(client, "/adapters/acme/math/versions?deleted=true") == [
        "acme/math@3", "acme/math@2", "acme/math@1",
    ]  # fmt: skip
    assert (await client.post("/adapters/acme/math/restore")).json()["id"] == "acme/math@3"
    assert await ids(client, "/adapters/acme/math/versions") == ["acme/math@3", "acme/math@2"]
    assert await ids(client, "/adapters?metadata.team=x") == ["acme/math@3"]
    assert await status(client, "acme/math@prod") == 200


async def test_upload_under_a_deleted_name_goes_on_counting_and_begins_without_aliases(
    client: httpx.AsyncClient,
) -> None:
    await upload(client)
    await client.put("/adapters/acme/math/aliases/prod", json={"version": 1})
    await client.delete("/adapters/acme/math")
    assert (await upload(client))["id"] == "acme/math@2"
    assert await status(client, "acme/math@prod") == 404
    history = (await client.get("/adapters/acme/math/aliases/prod/history")).json()["data"]
    assert [move["versions"] for move in history] == [None, {"1": 1.0}]
    assert (await client.post("/adapters/acme/math@1/restore")).status_code == 200
    assert (await client.post("/adapters/acme/math/aliases/prod/rollback")).status_code == 200


async def test_restoring_another_version_of_a_deleted_adapter_leaves_its_aliases_behind(
    client: httpx.AsyncClient,
) -> None:
    await upload(client), await upload(client)
    for alias, version in (("prod", 2), ("old", 1)):
        await client.put(f"/adapters/acme/math/aliases/{alias}", json={"version": version})
    await client.delete("/adapters/acme/math")
    assert (await client.post("/adapters/acme/math@1/restore")).status_code == 200
    assert await ids(client, "/adapters/acme/math/aliases") == ["acme/math@old"]
    assert await status(client, "acme/math@prod") == 404


async def test_what_is_not_deleted_or_never_was_is_not_restored(client: httpx.AsyncClient) -> None:
    await upload(client)
    assert_error(await client.post("/adapters/acme/math/restore"), 400, "not_deleted")
    assert_error(await client.post("/adapters/acme/math@1/restore"), 400, "not_deleted")
    assert_error(await client.post("/adapters/acme/math@2/restore"), 404, "adapter_not_found")
    assert_error(await client.post("/adapters/none/restore"), 404, "adapter_not_found")
    assert_error(await client.post("/adapters/acme/math@prod/restore"), 400, "invalid_name")


async def test_purged_adapter_leaves_nothing_but_its_number(client: httpx.AsyncClient, app_database: Database) -> None:
    for _ in range(2):
        await upload(client, metadata={"k": "v"})
    await client.put("/adapters/acme/math/aliases/prod", json={"version": 2})
    await client.delete("/adapters/acme/math")
    purged = await client.delete("/adapters/acme/math?purge=true")
    assert (purged.json()["versions"], purged.json()["purged"]) == ([1, 2], True)
    with app_database.read() as connection:
        for table in (ADAPTER_VERSIONS, ADAPTER_METADATA, ALIASES, ALIAS_MOVES):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
        assert connection.execute(sa.select(TENANTS.c.adapter_count)).scalar() == 0
    assert_error(await client.post("/adapters/acme/math/restore"), 404, "adapter_not_found")
    assert_error(await client.delete("/adapters/acme/math?purge=true"), 404, "adapter_not_found")
    assert (await upload(client))["id"] == "acme/math@3"


async def test_one_version_is_purged_and_the_others_stay(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await upload(client)
    assert (await client.delete("/adapters/acme/math@1?purge=true")).status_code == 200
    assert await ids(client, "/adapters/acme/math/versions") == ["acme/math@2"]
    assert_error(await client.post("/adapters/acme/math@1/restore"), 404, "adapter_not_found")


@pytest.mark.parametrize("query", ["", "?purge=true"])
@pytest.mark.parametrize("targets", [["acme/math"], ["acme/math@1", "acme/math@2"]])
async def test_what_is_uploaded_under_the_name_of_a_deleted_public_adapter_is_private(
    client: httpx.AsyncClient, query: str, targets: list[str]
) -> None:
    await upload(client), await upload(client)
    await client.patch("/adapters/acme/math", json={"public": True})
    for target in targets:
        assert (await client.delete(f"/adapters/{target}{query}")).status_code == 200
    assert (await upload(client))["public"] is False
    assert await ids(client, "/adapters?public=true") == []


async def test_public_adapter_stays_public_while_it_has_a_version(client: httpx.AsyncClient) -> None:
    await upload(client), await upload(client)
    await client.patch("/adapters/acme/math", json={"public": True})
    await client.delete("/adapters/acme/math@2")
    assert await ids(client, "/adapters?public=true") == ["~default/acme/math@1"]
    assert (await upload(client))["public"] is True


async def test_restored_adapter_is_private_until_it_is_made_public_again(client: httpx.AsyncClient) -> None:
    await upload(client)
    await client.patch("/adapters/acme/math", json={"public": True})
    await client.delete("/adapters/acme/math")
    assert (await client.post("/adapters/acme/math/restore")).json()["public"] is False
    assert await ids(client, "/adapters?public=true") == []
    assert (await client.patch("/adapters/acme/math", json={"public": True})).json()["public"] is True
