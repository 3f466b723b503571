"""All gateways on one PostgreSQL have its time, whatever the time of their machines is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from asgi_lifespan import LifespanManager

from server.api.app import create_app
from server.core.clock import following, now
from server.core.settings import Settings
from server.db.database import Database
from server.db.database_clock import DatabaseClock
from tests.postgres import PostgresServer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine

HOUR = 3600
AHEAD = """CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql
           AS $$ SELECT pg_catalog.clock_timestamp() + interval '{} s' $$"""


def set_clock(database: Database, ahead_s: int) -> None:
    """Have PostgreSQL say that it is so much later than here."""
    with database.write() as connection:
        connection.exec_driver_sql(AHEAD.format(ahead_s))


@pytest.fixture
def ahead(postgres: PostgresServer, postgres_url: str) -> Iterator[Database]:
    """A database whose clock is an hour ahead of this machine's."""
    name = postgres_url.rpartition("/")[2]
    postgres.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
    database = Database(postgres_url)
    set_clock(database, HOUR)
    yield database
    database.close()


def test_its_time_is_taken_and_a_machine_that_differs_is_told_of_once(
    ahead: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = DatabaseClock(ahead)
    assert clock.time() == pytest.approx(time.time(), abs=2)
    clock.ask()
    clock.ask()
    assert clock.time() == pytest.approx(time.time() + HOUR, abs=2)
    assert capsys.readouterr().out.count("this machine's clock differs") == 1
    set_clock(ahead, 2 * HOUR)
    clock.ask()
    assert clock.time() == pytest.approx(time.time() + 2 * HOUR, abs=2)


def test_it_goes_on_while_the_database_is_away(ahead: Database, postgres: PostgresServer) -> None:
    clock = DatabaseClock(ahead)
    clock.ask()
    postgres.stop()
    try:
        clock.ask()
        assert clock.time() == pytest.approx(time.time() + HOUR, abs=2)
    finally:
        postgres.start()


async def test_a_gateway_has_the_time_of_its_database_while_it_runs(
    ahead: Database, settings: Settings, engine: FakeEngine
) -> None:
    app = create_app(settings, engine, ahead)
    async with LifespanManager(app), client_of(app) as client:
        assert now() == pytest.approx(time.time() + HOUR, abs=2)
        assert await made_at(client, "a") == pytest.approx(time.time() + HOUR, abs=2)
        with following(lambda: 5000):
            assert await made_at(client, "b") == 5000
    assert now() == pytest.approx(time.time(), abs=2)
    await app.state.gateway.reads.close()


async def made_at(client: httpx.AsyncClient, name: str) -> int:
    answer = await client.post("/v1/adapters", json={"name": name, "vector": [0.5] * 13})
    return int(answer.json()["created_at"])
