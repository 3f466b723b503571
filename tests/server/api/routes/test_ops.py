"""Probes and metrics."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from asgi_lifespan import LifespanManager
from sqlalchemy import make_url

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.postgres import PostgresServer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine


@contextmanager
def frozen_backends(postgres: PostgresServer, database: Database) -> Iterator[None]:
    """Within the block the server answers none of the connections that there are."""
    with database.read() as connection:
        activity = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        processes = connection.exec_driver_sql(activity).scalars().all()
    with ExitStack() as frozen:
        for process in processes:
            frozen.enter_context(postgres.frozen(process))
        yield


async def test_live_engine_and_writable_database_are_healthy_and_ready(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_dead_engine_is_neither_healthy_nor_ready(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.alive = False
    for path in ("/health", "/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")


async def test_an_engine_that_gives_nothing_for_too_long_asks_for_a_restart(
    client: httpx.AsyncClient, engine: FakeEngine, settings: Settings
) -> None:
    engine.silent_s = settings.engine_silence_s
    assert (await client.get("/health")).status_code == 200
    engine.silent_s += 1
    for path in ("/health", "/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_hangs")
        assert "TINYLORA_ENGINE_SILENCE_S" in response.json()["error"]["message"]
    assert "tinylora_engine_silent_seconds 601.0" in (await client.get("/metrics")).text


async def test_a_gateway_is_ready_once_its_database_was_written_and_while_it_can_be_read(
    settings: Settings, engine: FakeEngine
) -> None:
    database = Database(settings.database_url, busy_timeout_s=0.05)
    lock = sqlite3.connect(make_url(settings.database_url).database or "", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    app = create_app(settings, engine, database)
    async with client_of(app) as client:
        response = await client.get("/ready")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
        assert (await client.get("/health")).status_code == 200
        lock.execute("ROLLBACK")
        assert (await client.get("/ready")).status_code == 200
        assert "tinylora_database_writable 1.0" in (await client.get("/metrics")).text
        lock.execute("BEGIN IMMEDIATE")
        async with LifespanManager(app):
            while "tinylora_database_writable 0.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
            assert (await client.get("/ready")).status_code == 200
            assert (await client.post("/v1/chat/completions", json={"messages": []})).status_code == 200
            lock.execute("ROLLBACK")
    lock.close()
    database.close()


async def test_a_database_that_hangs_is_not_ready_within_the_probes_time(
    settings: Settings, engine: FakeEngine, postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url)
    app = create_app(settings, engine, database)
    async with client_of(app) as client:
        assert (await client.get("/ready")).status_code == 200
        with frozen_backends(postgres, database):
            async with asyncio.timeout(settings.health_timeout_s + 2):
                response = await client.get("/ready")
            assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
        assert (await client.get("/ready")).status_code == 200
    await app.state.gateway.reads.close()
    database.close()


async def test_metrics_are_there_at_once_while_the_database_hangs(
    settings: Settings, engine: FakeEngine, postgres: PostgresServer, postgres_url: str
) -> None:
    database = Database(postgres_url)
    app = create_app(settings, engine, database)
    async with LifespanManager(app), client_of(app) as client:
        while 'tinylora_training_jobs{status="queued"} 0.0' not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.05)
        with frozen_backends(postgres, database):
            async with asyncio.timeout(3):
                assert 'tinylora_training_jobs{status="queued"} 0.0' in (await client.get("/metrics")).text
    await app.state.gateway.reads.close()
    database.close()


async def test_metrics_join_the_processes_registry_and_ours(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", content=b"", headers={"content-type": "application/octet-stream"})
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'tinylora_adapter_uploads_total{format="vector",result="rejected"} 1.0' in response.text
    assert "process_resident_memory_bytes" in response.text


@pytest.mark.parametrize(
    ("body", "label"),
    [
        ({}, "base"),
        ({"adapter": "a"}, "a"),
        ({"adapter": {"vector": [0.5] * 13}}, "inline"),
        ({"adapter": [{"adapter": "a", "weight": 0.5}]}, "mix"),
        ({"adapter": "none"}, "unresolved"),
    ],
)
async def test_requests_are_counted_by_adapter(client: httpx.AsyncClient, body: dict[str, object], label: str) -> None:
    await client.post("/adapters", json={"name": "a", "vector": [0.5] * 13})
    response = await client.post("/v1/chat/completions", json={"messages": [], **body})
    status = f"{response.status_code // 100}xx"
    text = (await client.get("/metrics")).text
    assert f'tinylora_requests_total{{adapter="{label}",status="{status}"}} 1.0' in text


async def test_resolves_tell_the_cache_from_the_database(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", json={"name": "a", "vector": [0.5] * 13})
    for name in ("a", "a", "none"):
        await client.post("/v1/chat/completions", json={"messages": [], "adapter": name})
    text = (await client.get("/metrics")).text
    assert 'tinylora_adapter_resolves_total{result="ok",source="database"} 1.0' in text
    assert 'tinylora_adapter_resolves_total{result="ok",source="cache"} 1.0' in text
    assert 'tinylora_adapter_resolves_total{result="not_found",source="database"} 1.0' in text
