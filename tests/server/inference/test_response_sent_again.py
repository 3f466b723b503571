"""A background response that is asked for again with its Idempotency-Key is one response, by the official client."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.principal import Limits, Principal
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSES
from tests.server.conftest import client_of
from tests.server.inference.test_responses import ended, official
from tests.server.support.acting import act_as, new_tenant
from tests.server.support.fake_engine import BASE, FakeEngine


async def ask(
    http: httpx.AsyncClient, text: str = "one", *, key: str = "k", tenant: str | None = None, **more: Any
) -> tuple[Any, bool]:
    """The answer to a request for a background response, and whether it is that of an earlier one."""
    responses = official(http, tenant).responses.with_raw_response
    sent = {"model": BASE, "input": text, "background": True, "extra_headers": {"Idempotency-Key": key}}
    answer = await responses.create(**(sent | more))
    return answer.parse(), answer.headers.get("idempotent-replayed") == "true"


def stored(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(sa.select(RESPONSES.c.id)).scalars())


async def test_on_any_gateway_and_however_far_it_is(settings: Settings, engine: FakeEngine, database: Database) -> None:
    engine.hold = asyncio.Event()
    runs, other = (create_app(settings, engine, database) for _ in range(2))
    async with client_of(runs) as one, client_of(other) as two:
        made = await asyncio.gather(*(ask(http) for http in (one, two) * 4))
        assert len({response.id for response, _ in made}) == 1
        assert sorted(replayed for _, replayed in made) == [False] + [True] * 7
        engine.hold.set()
        done = await ended(official(two), made[0][0].id)
        for http in (one, two):
            again, replayed = await ask(http)
            assert (again, replayed) == (done, True), "as it is now"
        with pytest.raises(openai.UnprocessableEntityError, match="was used for another request"):
            await ask(two, "two")
        another, _ = await ask(two, key="another")
        await ended(official(two), another.id)
    assert sorted(stored(database)) == sorted([done.id, another.id]) and len(engine.asked) == 2


async def test_its_stream_is_the_same_from_the_beginning(app: FastAPI, engine: FakeEngine) -> None:
    async with client_of(app) as http:
        streams = [(await ask(http, stream=True))[0] for _ in range(2)]
        first, again = [[event async for event in stream] for stream in streams]
    assert first == again and first[-1].type == "response.completed"
    assert len(engine.asked) == 1


async def test_one_that_is_deleted_is_made_again(app: FastAPI) -> None:
    async with client_of(app) as http:
        first, _ = await ask(http)
        await official(http).responses.delete(first.id)
        second, replayed = await ask(http)
        assert second.id != first.id and not replayed
        assert ((await ask(http))[0].id) == second.id


async def test_what_is_refused_is_refused_each_time_and_leaves_the_key_free(
    app: FastAPI, app_database: Database
) -> None:
    slow = Principal(new_tenant(app_database, "slow"), "k", frozenset({"infer"}), Limits(requests_per_minute=1))
    rich = Principal(slow.tenant, "k", frozenset({"infer"}))
    other = Principal(new_tenant(app_database, "other"), "o", frozenset({"infer"}))
    act_as(app, {"slow": slow, "rich": rich, "other": other})
    async with client_of(app) as http:
        first, _ = await ask(http, key="first", tenant="slow")
        refused = await asyncio.gather(*(ask(http, tenant="slow") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in refused] == [openai.RateLimitError] * 3
        assert (await ask(http, key="first", tenant="slow"))[0].id == first.id, "it is not charged again"
        made, replayed = await ask(http, tenant="rich")
        assert not replayed
        another, replayed = await ask(http, tenant="other")
        assert not replayed, "another tenant's key"
    assert sorted(stored(app_database)) == sorted([first.id, made.id, another.id])


async def test_a_key_that_cannot_be_one_is_refused(app: FastAPI) -> None:
    async with client_of(app) as http:
        with pytest.raises(openai.BadRequestError, match="expected 1 to 255 printable ASCII characters"):
            await ask(http, key="k" * 256)
