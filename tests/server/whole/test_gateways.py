"""Several gateways on one database: what one has acknowledged, the next request to any other sees."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.postgres import PostgresServer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.serve_fake import gateway_processes

NUMBERS = count(1)
ADMIN_KEY = "zu-Testzwecken-7331"
AS_ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@contextmanager
def two_processes(database_url: str) -> Iterator[list[str]]:
    """The URLs of two gateways on one database."""
    with gateway_processes(2, {"TINYLORA_ADMIN_KEY": ADMIN_KEY}) as processes:
        # The second one starts while the first one serves.
        yield [process.serve(database_url) for process in processes]


@pytest.fixture(scope="module")
def sqlite_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with two_processes(f"sqlite:///{tmp_path_factory.mktemp('gateways')}/tinylora.db") as urls:
        yield urls


@pytest.fixture(scope="module")
def postgresql_processes(postgres: PostgresServer, migrated_postgres: str) -> Iterator[list[str]]:
    database = postgres.new_database(migrated_postgres)
    with two_processes(postgres.url(database)) as urls:
        yield urls
    postgres.drop(database)


@pytest.fixture(params=["apps-sqlite", "apps-postgresql", "processes-sqlite", "processes-postgresql"])
async def gateways(
    request: pytest.FixtureRequest, tmp_path: Path, factors: Factors
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of three gateways in this process, or of two in processes of their own, on each kind of database."""
    where, _, kind = request.param.partition("-")
    async with AsyncExitStack() as stack:
        if where == "processes":
            urls = request.getfixturevalue(f"{kind}_processes")
            clients = [httpx.AsyncClient(base_url=url, timeout=60) for url in urls]
        else:
            url = f"sqlite:///{tmp_path}/a.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
            settings = Settings(database_url=url, log_level="error", admin_key=ADMIN_KEY)
            clients = []
            for _ in range(3):
                database = Database(url)
                stack.callback(database.close)
                app = create_app(settings, FakeEngine(factors), database)
                stack.push_async_callback(app.state.gateway.reads.close)
                clients.append(client_of(app))
        for client in clients:
            client.headers.update(AS_ADMIN)
            await stack.enter_async_context(client)
        yield clients


async def upload(client: httpx.AsyncClient, name: str) -> int:
    """The version that a new vector became."""
    vector = struct.pack("<13f", *[next(NUMBERS) / 2**14] * 13)
    headers = {"content-type": "application/octet-stream"}
    params = {"name": name, "dtype": "float32"}
    response = await client.post("/v1/adapters", params=params, content=vector, headers=headers)
    assert response.status_code == 201, response.text
    version: int = response.json()["version"]
    return version


async def served(client: httpx.AsyncClient, reference: str) -> str:
    """What a request for `reference` runs with, or the code of its error."""
    response = await client.post("/v1/completions", json={"prompt": "", "adapter": reference})
    return response.headers["x-active"] if response.status_code == 200 else response.json()["error"]["code"]


async def test_change_on_one_gateway_is_seen_by_the_next_request_on_every_other(
    gateways: list[httpx.AsyncClient],
) -> None:
    async def expect(**answers: str) -> None:
        for reference, answer in answers.items():
            wanted = [answer] * len(gateways)
            name = reference.replace("_", "@")
            assert [await served(client, name) for client in gateways] == wanted

    turn = iter(gateways * 10)
    missing = await served(gateways[0], "nothing")
    await expect(a=missing, a_1=missing, a_prod=missing)
    await upload(next(turn), "a")
    await expect(a="a@1", a_1="a@1", a_2=missing, a_prod=missing)
    await upload(next(turn), "a")
    await expect(a="a@2", a_1="a@1", a_2="a@2")
    for version in (1, 2, 1):
        moved = await next(turn).put("/v1/adapters/a/aliases/prod", json={"version": version})
        assert moved.is_success, moved.text
        await expect(a_prod=f"a@{version}", a="a@2")
    assert (await next(turn).delete("/v1/adapters/a@2")).is_success
    await expect(a="a@1", a_2=missing, a_prod="a@1")
    assert (await next(turn).post("/v1/adapters/a@2/restore")).is_success
    await expect(a="a@2", a_2="a@2")
    assert (await next(turn).delete("/v1/adapters/a/aliases/prod")).is_success
    await expect(a_prod=missing)
    assert (await next(turn).delete("/v1/adapters/a")).is_success
    await expect(a=missing, a_1=missing, a_2=missing)
    await upload(next(turn), "a")
    await expect(a="a@3", a_1=missing)


async def test_uploads_of_one_name_through_every_gateway_get_consecutive_versions(
    gateways: list[httpx.AsyncClient],
) -> None:
    versions = await asyncio.gather(*(upload(gateways[number % len(gateways)], "many") for number in range(60)))
    assert sorted(versions) == list(range(1, 61))


async def test_same_idempotency_key_through_every_gateway_at_once_makes_one_version(
    gateways: list[httpx.AsyncClient],
) -> None:
    async def send(client: httpx.AsyncClient, number: int) -> httpx.Response:
        headers = {"idempotency-key": f"k{number}", "content-type": "application/octet-stream"}
        return await client.post("/v1/adapters?name=keyed&dtype=float32", content=bytes(52), headers=headers)

    for number in range(10):
        responses = await asyncio.gather(*(send(client, number) for client in gateways * 2))
        assert [response.status_code for response in responses] == [201] * len(responses)
        assert {response.json()["version"] for response in responses} == {number + 1}
        assert [response.headers.get("idempotent-replayed") for response in responses].count(None) == 1


async def test_readers_never_get_a_version_older_than_one_acknowledged_before_they_asked(
    gateways: list[httpx.AsyncClient],
) -> None:
    writer, *readers = gateways
    names = [f"acme/n{number}" for number in range(3)]
    latest = {name: await upload(writer, name) for name in names}
    aliased = dict.fromkeys(names, 0)
    writing = True

    async def write(name: str) -> None:
        for _ in range(25):
            latest[name] = await upload(writer, name)
            (await writer.put(f"/v1/adapters/{name}/aliases/prod", json={"version": latest[name]})).raise_for_status()
            aliased[name] = latest[name]

    async def read(client: httpx.AsyncClient, name: str) -> int:
        reads = 0
        while writing:
            at_least, aliased_at_least = latest[name], aliased[name]
            assert int((await served(client, name)).rpartition("@")[2]) >= at_least
            if aliased_at_least:
                assert int((await served(client, f"{name}@prod")).rpartition("@")[2]) >= aliased_at_least
            reads += 1
            await asyncio.sleep(0.002)  # in one process readers need not ever wait, and writers would have no turn
        return reads

    reading = [asyncio.create_task(read(client, name)) for client in readers for name in names]
    await asyncio.gather(*(write(name) for name in names))
    writing = False
    assert min(await asyncio.gather(*reading)) > 1


async def test_key_made_or_revoked_on_one_gateway_is_so_on_every_other(gateways: list[httpx.AsyncClient]) -> None:
    async def statuses(key: str) -> list[int]:
        headers = {"authorization": f"Bearer {key}"}
        return [(await client.get("/v1/adapters", headers=headers)).status_code for client in gateways]

    for made_on, revoked_on in zip(gateways, reversed(gateways), strict=True):
        made = await made_on.post("/v1/tenants/default/keys", json={"name": "job", "scopes": ["adapters"]})
        assert made.status_code == 201, made.text
        assert await statuses(made.json()["key"]) == [200] * len(gateways)
        assert (await revoked_on.post(f"/v1/tenants/default/keys/{made.json()['id']}/revoke")).is_success
        assert await statuses(made.json()["key"]) == [401] * len(gateways)
