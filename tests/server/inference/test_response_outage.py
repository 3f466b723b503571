"""Background responses that run and end while the database cannot be written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSE_ROOM, RESPONSES
from tests.server.inference.test_response_streams import clients_of, followed
from tests.server.inference.test_responses import ended
from tests.server.support.fake_engine import BASE, FakeEngine


@pytest.fixture
def impatient(settings: Settings, engine: FakeEngine, database_url: str) -> Iterator[FastAPI]:
    """A gateway that waits for locks for a moment only."""
    database = Database(database_url, busy_timeout_s=0.05)
    yield create_app(settings, engine, database)
    database.close()


another = impatient  # of a database of its own


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """No response can be written while the block runs, and for long enough that it is tried."""
    database = Database(database_url)
    with database.write() as connection:
        connection.execute(RESPONSES.update().values(lease_expires_at=RESPONSES.c.lease_expires_at))
        connection.execute(RESPONSE_ROOM.update().values(bytes=RESPONSE_ROOM.c.bytes))
        yield
        await asyncio.sleep(1)
    database.close()


async def occupy(client: openai.AsyncOpenAI, engine: FakeEngine) -> list[asyncio.Task[object]]:
    """Requests that have all of the engine's places until it answers."""
    engine.hold = asyncio.Event()
    chat = client.chat.completions.create
    messages = [{"role": "user", "content": "x"}]
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(chat(model=BASE, messages=messages))  # type: ignore[arg-type]
        for _ in range(engine.max_num_seqs)
    ]
    async with asyncio.timeout(10):
        while len(engine.received) < engine.max_num_seqs:
            await asyncio.sleep(0.01)
    return tasks


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_waits_for_the_database(
    impatient: FastAPI, engine: FakeEngine, database_url: str, streams: bool
) -> None:
    async with clients_of(impatient) as (client,):
        others = await occupy(client, engine)
        if streams:
            stream = await client.responses.create(model=BASE, input="one", background=True, stream=True)
            response = (await anext(aiter(stream))).response  # type: ignore[union-attr]
        else:
            response = await client.responses.create(model=BASE, input="one", background=True)
        async with locked(database_url):
            assert engine.hold is not None
            engine.hold.set()
            await asyncio.gather(*others)
        done = await ended(client, response.id)
        assert (done.status, done.output_text) == ("completed", "base after 1 items")
        if streams:
            whole = await followed(client, response.id)
            assert [event.sequence_number for event in whole] == [*range(len(whole))]
            assert [event.type for event in whole].count("response.completed") == 1 and whole[-1].response == done
    with impatient.state.gateway.database.read() as connection:
        row = connection.execute(sa.select(RESPONSES.c.lease_expires_at, RESPONSES.c.bytes)).one()
        assert row.lease_expires_at is None
        assert connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one() == row.bytes


async def test_gateways_leave_each_other_time_to_renew_behind_an_outage(
    impatient: FastAPI, another: FastAPI, engine: FakeEngine, database_url: str
) -> None:
    engine.hold = asyncio.Event()
    async with clients_of(impatient, another) as clients, another.state.gateway.responses.tending(0.2):
        made = [await client.responses.create(model=BASE, input="one", background=True) for client in clients]
        await asyncio.sleep(0.5)
        async with locked(database_url):
            pass
        with impatient.state.gateway.database.write() as connection:  # as if it had been away for longer than a lease
            connection.execute(RESPONSES.update().values(lease_expires_at=1))
        await asyncio.sleep(0.5)
        async with impatient.state.gateway.responses.tending(0.02):
            await asyncio.sleep(0.1)
            engine.hold.set()
            for response in made:
                assert (await ended(clients[0], response.id)).status == "completed"
