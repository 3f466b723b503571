"""Tiers as the official clients send and read them: who may have priority, in which order requests go, what is said."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.batches.asking import ask
from server.core.principal import Limits, Principal, Tenant
from server.core.settings import Settings
from server.db.database import Database
from server.inference.gateway_fields import BACKGROUND_PRIORITY
from server.inference.service_tier import TierEcho
from tests.server.inference.test_admission import until
from tests.server.support.acting import HEADER, act_as
from tests.server.support.fake_engine import BASE, FakeEngine

CHAT = "/v1/chat/completions"
# Two have a number of it, the third has none.
GRANTS = {"granted": 2, "other": 1000, "plain": None}


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    app = create_app(settings.model_copy(update={"max_running_requests": 1}), engine, app_database)
    act_as(
        app,
        {
            name: Principal(
                Tenant(number, name, limits=Limits(priority_requests_per_minute=grant)), None, frozenset({"infer"})
            )
            for number, (name, grant) in enumerate(GRANTS.items(), start=2)
        },
    )
    return app


async def chat(client: httpx.AsyncClient, tenant: str, text: str = "", **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    response = await client.post(CHAT, json=body, headers={HEADER: tenant})
    assert response.status_code == 200, response.text
    assert int(response.headers["content-length"]) == len(response.content)
    return dict(response.json())


async def test_priority_is_given_as_often_as_the_operator_says_and_the_answer_says_so(
    client: httpx.AsyncClient,
) -> None:
    tiers = [(await chat(client, "granted", service_tier="priority"))["service_tier"] for _ in range(3)]
    assert tiers == ["priority", "priority", "default"]
    assert (await chat(client, "plain", service_tier="priority"))["service_tier"] == "default"


async def test_lines_of_batches_leave_priority_to_requests(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    granted = Principal(Tenant(2, "granted", limits=Limits(priority_requests_per_minute=2)), None, frozenset({"infer"}))
    for sent, served in (("priority", "default"), ("priority", "default"), ("flex", "flex")):
        body = {"model": BASE, "messages": [{"role": "user", "content": ""}], "service_tier": sent}
        answered = await ask(app, CHAT, json.dumps(body).encode(), granted, "line")
        assert json.loads(answered.body)["service_tier"] == served
        assert (engine.received[-1].model_extra or {})["priority"] == BACKGROUND_PRIORITY
    tiers = [(await chat(client, "granted", service_tier="priority"))["service_tier"] for _ in range(3)]
    assert tiers == ["priority", "priority", "default"]


@pytest.mark.parametrize(
    ("sent", "served"),
    [("auto", "default"), ("default", "default"), ("flex", "flex"), ("scale", "default"), ("fast", "default")],
)
async def test_every_tier_of_the_clients_is_taken(
    client: httpx.AsyncClient, engine: FakeEngine, sent: str, served: str
) -> None:
    assert (await chat(client, "plain", service_tier=sent))["service_tier"] == served
    assert "service_tier" not in (engine.received[-1].model_extra or {})


async def test_an_answer_says_nothing_of_tiers_to_whoever_named_none(client: httpx.AsyncClient) -> None:
    assert "service_tier" not in await chat(client, "plain")
    assert "service_tier" not in await chat(client, "plain", service_tier=None)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"service_tier": "gold"}, "invalid_value"),
        ({"service_tier": 7}, "invalid_value"),
        ({"service_tier": ["flex"]}, "invalid_value"),
        ({"service_tier": "flex", "priority": 3}, "conflicting_parameters"),
        ({"service_tier": "priority", "priority": 0}, "conflicting_parameters"),
    ],
)
async def test_what_is_no_tier_is_refused(client: httpx.AsyncClient, fields: dict[str, Any], code: str) -> None:
    response = await client.post(CHAT, json={"messages": [], **fields}, headers={HEADER: "other"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "service_tier", code)


async def test_requests_go_in_the_order_of_their_tiers(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.hold = asyncio.Event()
    tasks = [asyncio.create_task(chat(client, "other", "held"))]
    await until(lambda: len(engine.received) == 1)
    for tier in ("flex", "default", "priority"):
        tasks.append(asyncio.create_task(chat(client, "other", tier, service_tier=tier)))
        await asyncio.sleep(0.2)
    engine.hold.set()
    await asyncio.gather(*tasks)
    assert [request.messages[0]["content"] for request in engine.received] == ["held", "priority", "default", "flex"]
    assert [(request.model_extra or {}).get("priority") for request in engine.received] == [None, -10, None, 50]


def test_the_official_client_reads_the_tier_of_answers_and_of_streams(openai_client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "x"}]
    answer = openai_client.chat.completions.create(model="acme/base-135m", messages=messages, service_tier="flex")
    assert answer.service_tier == "flex"
    chunks = list(
        openai_client.chat.completions.create(
            model="acme/base-135m", messages=messages, service_tier="flex", stream=True
        )
    )
    assert chunks and {chunk.service_tier for chunk in chunks} == {"flex"}


async def test_events_of_responses_have_it_within_and_all_else_is_left_alone() -> None:
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    events = [
        b'event: response.created\ndata: {"type":"response.created","response":{"object":"response","id":"a"}}\n\n',
        b'event: x\ndata: {"type":"x","delta":"data: {}"}\n\ndata: {"broken\n\n',
        b"data: [DONE]\n\n",
    ]
    echo = TierEcho(keep, "flex")
    await echo({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for event in events:
        await echo({"type": "http.response.body", "body": event, "more_body": True})
    assert json.loads(sent[1]["body"].split(b"data: ")[1])["response"]["service_tier"] == "flex"
    assert [message["body"] for message in sent[2:]] == events[1:]


@pytest.mark.parametrize("field", ["prompt_cache_key", "safety_identifier", "user"])
async def test_names_of_users_are_taken_and_share_no_cache(
    client: httpx.AsyncClient, engine: FakeEngine, field: str
) -> None:
    for tenant in ("plain", "other"):
        await chat(client, tenant, **{field: "the same"})
    salts = [(request.model_extra or {})["cache_salt"] for request in engine.received]
    assert len(set(salts)) == 2
    await chat(client, "plain", **{field: "another"})
    assert (engine.received[-1].model_extra or {})["cache_salt"] == salts[0]
    for wrong in (5, ["a"], "x" * 513):
        response = await client.post(CHAT, json={"messages": [], field: wrong})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
