"""A write with an Idempotency-Key is done once, however often it is sent, wherever, and whatever dies between."""

import asyncio
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.api.writes import Answer, AuditedWrites, Author
from server.core.errors import BadRequest, UnprocessableEntity
from server.core.principal import OPEN_PRINCIPAL, Principal, Tenant
from server.db.database import Database
from server.db.retention import KEY_KEPT_S
from server.db.tables import AUDIT_LOG
from server.registry.creation import NewVersion, create_versions
from tests.server.support.process import Process

ADAPTER = "/v1/adapters/acme/math"
KEY = {"idempotency-key": "k-1"}
BODY = {"name": "acme/math", "vector": [1.0] * 13}

DIE_WITHIN_A_WRITE = """
import sys
from server.db.database import Database
from server.core.principal import OPEN_PRINCIPAL
from server.db.tables import AUDIT_LOG, IDEMPOTENCY_KEYS
from server.api.writes import Answer, Author, AuditedWrites

def do(connection):
    print("written", flush=True)
    sys.stdin.read()
    return Answer({})

AuditedWrites(Database(sys.argv[1])).run(Author(OPEN_PRINCIPAL, "r", "k"), "test", "t", do)
"""


def assert_replayed(first: httpx.Response, second: httpx.Response) -> None:
    assert first.status_code < 300, first.text
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers.get("etag") == first.headers.get("etag")


@pytest.fixture
async def stored(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/adapters", json=BODY)
    for version in (1, 2):
        await client.put(f"{ADAPTER}/aliases/prod", json={"version": version})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/adapters", BODY),
        ("PUT", f"{ADAPTER}/aliases/next", {"version": 1}),
        ("POST", f"{ADAPTER}/aliases/prod/rollback", None),
        ("DELETE", f"{ADAPTER}/aliases/prod", None),
        ("PATCH", ADAPTER, {"public": True}),
        ("DELETE", f"{ADAPTER}@1", None),
        ("DELETE", f"{ADAPTER}?purge=true", None),
    ],
)
async def test_same_write_again_is_answered_and_not_done(
    client: httpx.AsyncClient, stored: None, app_database: Database, method: str, path: str, body: Any
) -> None:
    fields = {"headers": KEY} if body is None else {"headers": KEY, "json": body}
    first = await client.request(method, path, **fields)
    before = await state(client, app_database)
    assert_replayed(first, await client.request(method, path, **fields))
    assert await state(client, app_database) == before


async def state(client: httpx.AsyncClient, database: Database) -> Any:
    with database.read() as connection:
        lines = connection.execute(sa.select(sa.func.count()).select_from(AUDIT_LOG)).scalar()
    pages = [await client.get(path) for path in (ADAPTER, f"{ADAPTER}/aliases", f"{ADAPTER}/versions?deleted=true")]
    return lines, [(page.headers.get("etag"), page.json()) for page in pages if page.status_code == 200]


async def test_restoration_is_done_once(client: httpx.AsyncClient, stored: None) -> None:
    await client.delete(f"{ADAPTER}@1")
    first = await client.post(f"{ADAPTER}@1/restore", headers=KEY)
    assert_replayed(first, await client.post(f"{ADAPTER}@1/restore", headers=KEY))


async def test_key_stands_for_one_request(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", json=BODY, headers=KEY)
    others = (
        ("POST", "/adapters", BODY | {"vector": [2.0] * 13}),
        ("POST", "/adapters", BODY | {"name": "another"}),
        ("POST", "/adapters", BODY | {"metadata": {"k": "v"}}),
        ("PUT", f"{ADAPTER}/aliases/prod", {"version": 1}),
        ("PATCH", ADAPTER, {"public": True}),
    )
    for method, path, body in others:
        response = await client.request(method, path, json=body, headers=KEY)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (422, "idempotency_key_reused")
    first = await client.delete(f"{ADAPTER}?purge=false", headers={"idempotency-key": "k-2"})
    assert first.status_code == 200
    assert (await client.delete(f"{ADAPTER}?purge=true", headers={"idempotency-key": "k-2"})).status_code == 422


async def test_form_sent_again_has_other_bytes_and_is_the_same(client: httpx.AsyncClient, factors: Factors) -> None:
    file = Adapter.from_vector(Adapter(Recipe(), factors.digest, "bfloat16", b"\0?" * 13).vector(), Recipe(),
                               factors.digest, "bfloat16").to_safetensors()  # fmt: skip
    answers = [
        await client.post("/adapters", data={"name": "a"}, files={"file": ("a.safetensors", file)}, headers=KEY)
        for _ in range(2)
    ]
    assert_replayed(*answers)


async def test_refused_write_leaves_the_key_free(client: httpx.AsyncClient) -> None:
    path = f"{ADAPTER}/aliases/prod"
    assert (await client.put(path, json={"version": 1}, headers=KEY)).status_code == 404
    await client.post("/adapters", json=BODY)
    assert (await client.put(path, json={"version": 1}, headers=KEY)).status_code == 201


async def test_replay_precedes_the_precondition_that_the_first_time_met(client: httpx.AsyncClient) -> None:
    headers = KEY | {"if-none-match": "*"}
    assert_replayed(
        await client.post("/adapters", json=BODY, headers=headers),
        await client.post("/adapters", json=BODY, headers=headers),
    )


async def test_many_at_once_with_one_key_make_one_version(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(client.post("/adapters", json=BODY, headers=KEY) for _ in range(8)))
    assert {answer.json()["id"] for answer in answers} == {"acme/math@1"}
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7


@pytest.mark.parametrize("key", ["", "x" * 256, b"\xff", b"\0"])
async def test_key_of_no_or_too_many_or_unprintable_characters_is_refused(
    client: httpx.AsyncClient, key: str | bytes
) -> None:
    response = await client.post("/adapters", json=BODY, headers={"idempotency-key": key})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "idempotency-key")


def author(principal: Principal = OPEN_PRINCIPAL, key: str | None = "k") -> Author:
    return Author(principal, "r-1", key)


def test_key_of_a_process_killed_within_its_write_is_free(database_url: str) -> None:
    command = [sys.executable, "-c", DIE_WITHIN_A_WRITE, database_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    database = Database(database_url)
    answer = AuditedWrites(database).run(author(), "test", "t", lambda _: Answer({"fresh": True}))
    assert (dict(answer.body), answer.headers) == ({"fresh": True}, {})
    database.close()


def test_failed_write_leaves_neither_rows_nor_key_nor_audit(process: Process) -> None:
    writes = AuditedWrites(process.database)

    def do(connection: Connection) -> Answer:
        made = Adapter(Recipe(), "a" * 64, "bfloat16", b"\0?" * 13)
        create_versions(process.database, connection, 1, [NewVersion("a", made)])
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        writes.run(author(), "adapter.create", "a", do)
    assert process.registry.list(1).items == ()
    assert process.read(lambda of: of.execute(sa.select(AUDIT_LOG)).all()) == []
    assert writes.run(author(), "other", "b", lambda _: Answer({})).headers == {}


def test_two_processes_with_one_key_do_it_once(process: Process, other_process: Process) -> None:
    def write(number: int) -> int:
        side = (process, other_process)[number % 2]

        def do(connection: Connection) -> Answer:
            made = Adapter(Recipe(), "a" * 64, "bfloat16", b"\0?" * 13)
            [entry] = create_versions(side.database, connection, 1, [NewVersion("a", made)])
            return Answer({"version": entry.stored.version})

        return int(AuditedWrites(side.database).run(author(), "adapter.create", "a", do).body["version"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write, range(16))) == [1] * 16
    assert process.versions("a") == [1]


def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(process: Process) -> None:
    writes = AuditedWrites(process.database)
    acme = Principal(Tenant(process.new_tenant("acme").tenant_id, "acme"), None, frozenset({"adapters"}))
    assert writes.run(author(), "a", "t", lambda _: Answer({"of": 1})).body == {"of": 1}
    assert writes.run(author(acme), "a", "t", lambda _: Answer({"of": 2})).body == {"of": 2}
    assert writes.run(author(acme), "a", "t", lambda _: Answer({"of": 3})).body == {"of": 2}
    with pytest.raises(UnprocessableEntity):
        writes.run(author(acme), "a", "t", lambda _: Answer({}), fingerprint="other")


def test_a_key_past_its_time_is_free_again(database: Database) -> None:
    now = [1_000_000.0]
    writes = AuditedWrites(database, clock=lambda: now[0])
    author = Author(OPEN_PRINCIPAL, idempotency_key="k")
    assert writes.run(author, "a", "t", lambda _: Answer({"number": 1})).body == {"number": 1}
    now[0] += KEY_KEPT_S
    assert writes.run(author, "a", "t", lambda _: Answer({"number": 2})).body == {"number": 1}
    now[0] += 1
    assert writes.run(author, "a", "t", lambda _: Answer({"number": 3})).body == {"number": 3}
