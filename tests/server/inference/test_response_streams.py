"""Streams of responses in the background by the official client: broken off, taken up again, ended in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.errors import TooManyRequests
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSE_EVENTS, RESPONSE_ROOM, RESPONSES
from server.inference.responses.event_stream import MAX_STREAMS
from tests.server.conftest import client_of
from tests.server.inference.test_responses import ended, official
from tests.server.support.acting import act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.served import listening

SAID = ["base ", "after ", "1 ", "items "]
BEGIN = ["response.created", "response.queued", "response.in_progress"]


@asynccontextmanager
async def clients_of(*apps: FastAPI) -> AsyncIterator[list[openai.AsyncOpenAI]]:
    """The official client of each app, on sockets: what is streamed comes as it is sent."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(listening(app)) for app in apps]
        https = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)) for url in urls]
        yield [official(http).with_options(base_url=f"{url}/v1") for http, url in zip(https, urls, strict=True)]


async def begun(client: openai.AsyncOpenAI) -> list[Any]:
    """The events of a new response up to the first word, behind which the engine is held; then the client leaves."""
    events = []
    async with await client.responses.create(model=BASE, input="one", background=True, stream=True) as stream:
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
    return events


async def followed(client: openai.AsyncOpenAI, response_id: str, after: Any = openai.omit) -> list[Any]:
    """The rest of a stream, to its end."""
    async with asyncio.timeout(20):
        return [
            event async for event in await client.responses.retrieve(response_id, stream=True, starting_after=after)
        ]


def numbers(events: list[Any]) -> list[int]:
    return [event.sequence_number for event in events]


def words(events: list[Any]) -> list[str]:
    return [event.delta for event in events if event.type == "response.output_text.delta"]


async def test_a_stream_that_breaks_off_is_taken_up_on_any_gateway(
    settings: Settings, engine: FakeEngine, database: Database
) -> None:
    engine.hold = asyncio.Event()
    apps = [create_app(settings, engine, database) for _ in range(2)]
    async with clients_of(*apps) as (one, other):
        first = await begun(one)
        response = first[0].response
        assert [event.type for event in first[:3]] == BEGIN and words(first) == SAID[:1]
        assert (response.status, response.background, first[2].response.status) == ("queued", True, "in_progress")
        assert response.created_at == first[2].response.created_at
        rest = asyncio.create_task(followed(other, response.id, first[-1].sequence_number))
        again = asyncio.create_task(followed(one, response.id))
        await asyncio.sleep(0)
        engine.hold.set()
        whole = first + await rest
        assert numbers(whole) == [*range(len(whole))] and words(whole) == SAID
        done = whole[-1]
        assert done.type == "response.completed" and done.response == await other.responses.retrieve(response.id)
        assert await again == whole
        # After its end too, from any event on, and as often as anyone likes.
        for after in (openai.omit, 0, 4, len(whole) - 2, len(whole) - 1):
            last = -1 if isinstance(after, openai.Omit) else after
            assert await followed(other, response.id, after) == whole[last + 1 :]
        for after in (len(whole), len(whole) + 5):
            with pytest.raises(
                openai.BadRequestError, match=f"last event .* has the number {len(whole) - 1}"
            ) as beyond:
                await other.responses.retrieve(response.id, stream=True, starting_after=after)
            assert (beyond.value.param, beyond.value.code) == ("starting_after", "invalid_value")
        async with other.responses.stream(response_id=response.id, starting_after=5) as stream:
            assert (await anext(aiter(stream))).sequence_number == 6
            assert (await stream.get_final_response()).output_text == "base after 1 items"
        with database.read() as connection:
            rows = connection.execute(sa.select(RESPONSE_EVENTS.c.first)).scalars().all()
            assert 0 in rows and len(rows) < len(whole) / 2
            used = connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one()
            assert used == connection.execute(sa.select(sa.func.sum(RESPONSES.c.bytes))).scalar_one()
        await other.responses.delete(response.id)
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(RESPONSE_EVENTS)).scalar() == 0
            assert connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one() == 0


async def test_cancelling_anywhere_ends_a_stream(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    engine.hold = asyncio.Event()
    runs, other = (create_app(settings, engine, app_database) for _ in range(2))
    async with clients_of(runs, other) as (one, two), runs.state.gateway.responses.tending(0.02):
        first = await begun(one)
        response_id = first[0].response.id
        rest = asyncio.create_task(followed(one, response_id, first[-1].sequence_number))
        await asyncio.sleep(0.1)
        assert (await two.responses.cancel(response_id)).status == "cancelled"
        [*_, last] = whole = first + await rest
        assert numbers(whole) == [*range(len(whole))]
        assert (last.type, last.response.status) == ("response.failed", "cancelled")
        # The engine's part ends as well, and what it says until then is not told.
        async with asyncio.timeout(10):
            while runs.state.gateway.responses._background._clients:
                await asyncio.sleep(0.01)
        assert await followed(two, response_id) == whole


@pytest.mark.parametrize("way", ["cancelled", "completed"])
async def test_a_stream_taken_up_beyond_what_there_is_waits_and_ends(
    settings: Settings, engine: FakeEngine, app_database: Database, way: str
) -> None:
    engine.hold = asyncio.Event()
    runs, other = (create_app(settings, engine, app_database) for _ in range(2))
    async with clients_of(runs, other) as (one, two):
        first = await begun(one)
        response_id = first[0].response.id
        waiting = [asyncio.create_task(followed(client, response_id, after=1000)) for client in (one, two)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        if way == "cancelled":
            await one.responses.cancel(response_id)
        else:
            engine.hold.set()
        whole = await followed(one, response_id)
        assert whole[-1].response.status == way
        for task in waiting:
            assert await task == whole[-1:]


@pytest.mark.parametrize("way", ["gateway", "engine", "refused", "deleted"])
async def test_what_fails_ends_its_stream(
    settings: Settings, engine: FakeEngine, app_database: Database, way: str
) -> None:
    engine.hold = asyncio.Event()
    runs, other = (create_app(settings, engine, app_database) for _ in range(2))
    async with clients_of(runs, other) as (one, two):
        if way == "refused":
            engine.too_long = "one"
            stream = await one.responses.create(model=BASE, input="one", background=True, stream=True)
            whole: list[Any] = [event async for event in stream]
            assert [event.type for event in whole] == [*BEGIN[:2], "response.failed"]
            assert whole[-1].response.error.message == "The prompt is too long"
            return
        first = await begun(one)
        response_id = first[0].response.id
        rest = asyncio.create_task(followed(two, response_id, first[-1].sequence_number))
        await asyncio.sleep(0.1)
        if way == "deleted":
            await two.responses.delete(response_id)
            [event] = await rest
            assert (event.type, event.code) == ("error", "response_not_found")
            return
        if way == "engine":
            engine.breaks_off = True
            engine.hold.set()
            whole = first + await rest
        else:  # its lease ends, as nobody renews it
            with app_database.write() as connection:
                connection.execute(RESPONSES.update().values(lease_expires_at=1))
            async with other.state.gateway.responses.tending(0.02):
                whole = first + await rest
        assert numbers(whole) == [*range(len(whole))] and words(whole) == SAID[:1]
        assert (whole[-1].type, whole[-1].response.error.code) == ("response.failed", "server_error")
        assert await followed(two, response_id) == whole


async def test_events_count_as_bytes_of_their_response(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    limits = {"max_response_bytes": 6000, "max_tenant_response_bytes": 100_000}
    app = create_app(settings.model_copy(update=limits), engine, app_database)
    engine.base_answer = " ".join(f"{number * 7919:x}" for number in range(400))
    async with clients_of(app) as (client,):
        stream = await client.responses.create(model=BASE, input="one", background=True, stream=True)
        [*_, last] = [event async for event in stream]
        assert last.type == "response.failed" and "max_response_bytes" in last.response.error.message  # type: ignore[union-attr]
        engine.base_answer = "base"
        fine = await client.responses.create(model=BASE, input="one", background=True, stream=True)
        assert [event.type async for event in fine][-1] == "response.completed"
        with pytest.raises(openai.BadRequestError, match="max_response_bytes"):
            long = "".join(f"{number * 7919:x}" for number in range(800))
            await client.responses.create(model=BASE, input="x", instructions=long, background=True, stream=True)
    with app_database.read() as connection:
        rows = connection.execute(sa.select(RESPONSES.c.bytes, RESPONSES.c.status).order_by(RESPONSES.c.id)).all()
        assert [row.status for row in rows] == ["failed", "completed"] and all(row.bytes <= 6000 for row in rows)
        assert connection.execute(sa.select(RESPONSE_ROOM.c.bytes)).scalar_one() == sum(row.bytes for row in rows)


async def test_who_may_stream_what(app: FastAPI, app_database: Database) -> None:
    act_as(app, {name: principal(new_tenant(app_database, name)) for name in ("one", "other")})
    async with client_of(app) as http:
        one, other = official(http, "one"), official(http, "other")
        stream = await one.responses.create(model=BASE, input="a secret", background=True, stream=True)
        response_id = (await anext(aiter(stream))).response.id  # type: ignore[union-attr]
        refused = []
        for asked in (response_id, f"resp_{'0' * 28}"):
            with pytest.raises(openai.NotFoundError) as caught:
                await other.responses.retrieve(asked, stream=True)
            refused.append(caught.value.message.replace(asked, "it"))
        assert refused[0] == refused[1]
        plain = await one.responses.create(model=BASE, input="one", background=True)
        await ended(one, plain.id)
        with pytest.raises(openai.BadRequestError, match="both background and stream") as wrong:
            await one.responses.retrieve(plain.id, stream=True)
        assert (wrong.value.param, wrong.value.code) == ("stream", "not_streamed")
        for query in ("starting_after=1", "stream=true&starting_after=-1", f"stream=true&starting_after={2**40}"):
            answer = await http.get(f"/v1/responses/{response_id}?{query}", headers={"x-act-as": "one"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")


async def test_streams_of_a_tenant_are_counted(app: FastAPI, engine: FakeEngine, app_database: Database) -> None:
    engine.hold = asyncio.Event()
    tenant_id = principal().tenant.id
    responses = app.state.gateway.responses
    async with clients_of(app) as (client,):
        response_id = (await begun(client))[0].response.id
        opened = [await responses.stream(tenant_id, response_id, 0) for _ in range(MAX_STREAMS)]
        for stream in opened:
            await anext(stream.body_iterator)
        with pytest.raises(TooManyRequests, match="close one of them"):
            await responses.stream(tenant_id, response_id, 0)
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model=BASE, input="two", background=True, stream=True)
        for stream in opened:
            await stream.body_iterator.aclose()
        engine.hold.set()
        assert (await followed(client, response_id))[-1].type == "response.completed"
