"""Responses that stream to the client that asked, while they run: fetched, deleted and not cancelled on any gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSE_ITEMS, RESPONSE_ROOM, RESPONSES
from server.db.webhook_tables import WEBHOOK_DELIVERIES
from tests.server.inference.test_response_streams import clients_of
from tests.server.inference.test_responses import ended
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.served import listening

INPUT: Any = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]


async def begun(client: openai.AsyncOpenAI, **fields: Any) -> tuple[Any, AsyncIterator[Any], Any]:
    """(the response of a stream's first event, the rest of it, the stream)."""
    stream = await client.responses.create(model=BASE, input=INPUT, stream=True, **fields)
    events = aiter(stream)
    created = await anext(events)
    assert created.type == "response.created"
    return created.response, events, stream


def counts(database: Database) -> list[int]:
    """Rows of responses and of their items, and bytes that they count for."""
    tables = (RESPONSES, RESPONSE_ITEMS)
    with database.read() as connection:
        rows = [connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables]
        return [*rows, connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one()]


async def test_one_that_runs_is_there_on_any_gateway(
    settings: Settings, engine: FakeEngine, database: Database
) -> None:
    engine.hold = asyncio.Event()
    apps = [create_app(settings, engine, database) for _ in range(2)]
    async with clients_of(*apps) as clients:
        response, rest, _ = await begun(clients[0])
        assert response.model_dump()["store"] is True
        asked = []
        for client in clients:
            running = await client.responses.retrieve(response.id)
            assert (running.status, running.background, running.output) == ("in_progress", False, [])
            items = [item.id async for item in client.responses.input_items.list(response.id, order="asc")]
            asked.append(items)
            with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
                await client.responses.cancel(response.id)
            with pytest.raises(openai.BadRequestError, match="has no stream"):
                await client.responses.retrieve(response.id, stream=True)
            with pytest.raises(openai.BadRequestError, match="is in_progress"):
                await client.responses.create(model=BASE, input="?", previous_response_id=response.id)
        engine.hold.set()
        [*_, last] = [event async for event in rest]
        kept = await clients[1].responses.retrieve(response.id)
        assert kept == last.response and kept.status == "completed" and kept.model_dump()["store"] is True
        asked.append([item.id async for item in clients[1].responses.input_items.list(response.id, order="asc")])
        assert asked[0] == asked[1] == asked[2] and len(asked[0]) == 2
        with database.read() as connection:
            assert connection.execute(sa.select(RESPONSES.c.lease_expires_at)).scalar_one() is None
            used = connection.execute(sa.select(RESPONSES.c.bytes)).scalar_one()
        assert counts(database) == [1, 1, used]


@pytest.mark.parametrize("gateway", [0, 1])
async def test_one_that_is_deleted_while_it_runs_is_not_stored(
    settings: Settings, engine: FakeEngine, database: Database, gateway: int
) -> None:
    engine.hold = asyncio.Event()
    apps = [create_app(settings, engine, database) for _ in range(2)]
    async with clients_of(*apps) as clients, apps[0].state.gateway.responses.tending(0.02):
        response, rest, _ = await begun(clients[0])
        await clients[gateway].responses.delete(response.id)
        await asyncio.sleep(0.1)  # in which its lease would be renewed
        engine.hold.set()
        [*_, last] = [event async for event in rest]
        # Whoever reads the stream still gets the answer.
        assert last.type == "response.completed" and last.response.output_text == "base after 2 items"
        assert last.response.model_dump()["store"] is False
        for client in clients:
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(response.id)
        assert counts(database) == [0, 0, 0]


async def test_one_that_breaks_off_has_failed(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    engine.breaks_off = True
    async with clients_of(create_app(settings, engine, app_database)) as (client,):
        response, rest, _ = await begun(client)
        [*_, last] = [event async for event in rest]
        assert last.type == "response.failed"
        assert (await client.responses.retrieve(response.id)) == last.response


async def forgotten(client: openai.AsyncOpenAI, response_id: str, database: Database) -> None:
    """Returns when there is no such response any more."""
    async with asyncio.timeout(10):
        while counts(database)[0]:
            await asyncio.sleep(0.01)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response_id)


async def test_one_whose_client_leaves_is_forgotten(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    app = create_app(settings, engine, app_database)
    async with clients_of(app) as (client,):
        response, _, stream = await begun(client)
        await stream.close()
        await forgotten(client, response.id, app_database)
        assert counts(app_database) == [0, 0, 0]


async def test_one_whose_client_closes_its_connection_is_forgotten(
    app: FastAPI, engine: FakeEngine, app_database: Database
) -> None:
    engine.chunk_s = 0.3
    async with listening(app) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        response, _, stream = await begun(client)
        assert counts(app_database)[0] == 1
        await stream.close()
        await forgotten(client, response.id, app_database)
        await asyncio.sleep(10 * engine.chunk_s)  # in which the answer would be complete
        assert counts(app_database) == [0, 0, 0]


async def test_one_whose_gateway_is_gone_has_failed(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    apps = [create_app(settings, engine, app_database) for _ in range(2)]
    async with clients_of(*apps) as (one, two):
        response, rest, _ = await begun(one)
        async with apps[0].state.gateway.responses.tending(0.02):
            with app_database.write() as connection:
                connection.execute(RESPONSES.update().values(lease_expires_at=2**40 - 1))
            async with asyncio.timeout(10):
                while True:  # whose gateway is there, and renews it
                    with app_database.read() as connection:
                        if connection.execute(sa.select(RESPONSES.c.lease_expires_at)).scalar_one() < 2**40 - 1:
                            break
                    await asyncio.sleep(0.01)
        with app_database.write() as connection:
            connection.execute(RESPONSES.update().values(lease_expires_at=1))
        async with apps[1].state.gateway.responses.tending(0.02):
            failed = await ended(two, response.id)
        assert failed.status == "failed" and failed.error is not None and "was stopped" in failed.error.message
        # If it was only silent for long, what it answered in the end is what there is.
        engine.hold.set()
        [*_, last] = [event async for event in rest]
        assert await two.responses.retrieve(response.id) == last.response and last.response.status == "completed"


async def test_no_webhook_is_told_of_one_that_was_lost(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    app = create_app(settings.model_copy(update={"endpoint_hosts": "localhost"}), engine, app_database)
    async with clients_of(app) as (client,):
        await client.webhooks.create(name="mine", url="http://localhost:9/", event_types=["response.failed"])
        background = await client.responses.create(model=BASE, input="one", background=True)
        response, rest, _ = await begun(client)
        with app_database.write() as connection:
            connection.execute(RESPONSES.update().values(lease_expires_at=1))
        await app.state.gateway.responses.store.end_lost()
        for lost in (background.id, response.id):
            assert (await client.responses.retrieve(lost)).status == "failed"
        with app_database.read() as connection:
            [told] = connection.execute(sa.select(WEBHOOK_DELIVERIES.c.body)).scalars()
        assert json.loads(told)["data"] == {"id": background.id}
        engine.hold.set()
        assert [event async for event in rest][-1].type == "response.completed"


async def test_one_that_becomes_too_long_is_answered_and_not_stored(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_response_bytes": 3000}), engine, app_database)
    engine.base_answer = "x" * 3000
    async with clients_of(app) as (client,):
        response, rest, _ = await begun(client)
        assert response.model_dump()["store"] is True
        [*_, last] = [event async for event in rest]
        assert last.response.output_text.startswith("xxx") and last.response.model_dump()["store"] is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
        assert counts(app_database) == [0, 0, 0]
