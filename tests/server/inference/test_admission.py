"""Quotas and turns of several tenants in front of an engine that takes one request at a time."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from server.api.app import create_app
from server.batches.asking import ask
from server.core.principal import Limits, Principal, Tenant
from server.core.settings import Settings
from server.db.database import Database
from server.engine.template_cost import TemplateCost
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as
from tests.server.support.fake_engine import BASE, FakeEngine

PATH = "/v1/chat/completions"
LIMITS = {
    "a": Limits(),
    "b": Limits(),
    "few": Limits(requests_per_minute=2),
    "short": Limits(tokens_per_minute=100),
    "single": Limits(concurrent_requests=1),
}
PRINCIPALS = {
    name: Principal(Tenant(number, name, limits=limits), f"key_{name}", frozenset({"infer"}))
    for number, (name, limits) in enumerate(LIMITS.items(), start=2)
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_running_requests": 1, "max_queued_requests": 3})


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    app = create_app(settings, engine, app_database)
    act_as(app, PRINCIPALS)
    return app


@pytest.fixture
async def held(app: FastAPI, engine: FakeEngine, client: httpx.AsyncClient) -> AsyncIterator["asyncio.Task[Any]"]:
    """A request of tenant a that is in the engine until `engine.hold` is set."""
    engine.hold = asyncio.Event()
    task = asyncio.create_task(chat(client, "a", "held"))
    await until(lambda: len(engine.received) == 1)
    yield task
    engine.hold.set()
    await task


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def chat(client: httpx.AsyncClient, tenant: str, text: str = "", **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 20, **fields}
    return await client.post(PATH, json=body, headers={HEADER: tenant})


async def metrics(client: httpx.AsyncClient) -> list[str]:
    return (await client.get("/metrics")).text.splitlines()


async def enqueue(app: FastAPI, client: httpx.AsyncClient, tenant: str, texts: list[str], **fields: Any) -> list[Any]:
    """Requests that wait, one after the other."""
    tasks = []
    for text in texts:
        before = await waiting(client)
        tasks.append(asyncio.create_task(chat(client, tenant, text, **fields)))
        async with asyncio.timeout(5):
            while await waiting(client) == before:
                await asyncio.sleep(0)
    return tasks


async def waiting(client: httpx.AsyncClient) -> int:
    names = ("tinylora_waiting_requests ", "tinylora_waiting_less_urgent_requests ")
    return sum(int(float(line.split()[1])) for line in await metrics(client) if line.startswith(names))


def order(engine: FakeEngine) -> list[str]:
    return [str(request.messages[0]["content"]) for request in engine.received]


async def test_tenants_take_turns_however_many_requests_one_of_them_has(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    tasks = await enqueue(app, client, "a", ["a1", "a2", "a3"]) + await enqueue(app, client, "b", ["b1", "b2", "b3"])
    assert engine.hold
    engine.hold.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * 6
    assert order(engine) == ["held", "b1", "a1", "b2", "a2", "b3", "a3"]


async def test_less_urgent_requests_of_a_tenant_come_after_its_others(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    tasks = await enqueue(app, client, "a", ["later"], priority=100) + await enqueue(app, client, "a", ["now"])
    assert engine.hold
    engine.hold.set()
    await asyncio.gather(*tasks)
    assert order(engine) == ["held", "now", "later"]


async def test_a_full_queue_is_full_for_its_tenant_only(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    tasks = await enqueue(app, client, "a", ["a1", "a2", "a3"])
    refused = await chat(client, "a")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"] == {
        "message": "3 requests of tenant a that go before this one are waiting for the model, as many as may wait. Try "
        "again when some of them have been served.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    tasks += await enqueue(app, client, "b", ["b1"])
    assert engine.hold
    engine.hold.set()
    assert {response.status_code for response in await asyncio.gather(*tasks)} == {200}
    assert 'tinylora_rejected_requests_total{reason="queue_full",tenant="all"} 1.0' in await metrics(client)


async def test_less_urgent_requests_of_a_tenant_leave_room_for_its_others(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    """Rollouts of training come again and again, as long as their jobs run."""
    tasks = await enqueue(app, client, "a", ["rollout 1", "rollout 2", "rollout 3"], priority=10)
    assert (await chat(client, "a", priority=10)).status_code == 429
    assert 'tinylora_rejected_requests_total{reason="less_urgent_queue_full",tenant="all"} 1.0' in await metrics(client)
    tasks += await enqueue(app, client, "a", ["chat 1", "chat 2", "chat 3"])
    assert (await chat(client, "a")).status_code == 429
    assert engine.hold
    engine.hold.set()
    assert {response.status_code for response in await asyncio.gather(*tasks)} == {200}
    assert order(engine)[1:4] == ["chat 1", "chat 2", "chat 3"]


def start(app: FastAPI, tenant: str, **fields: Any) -> tuple["asyncio.Task[None]", "asyncio.Queue[Any]", list[Any]]:
    """A request, message by message: the running app, what it will receive, and what it has sent."""
    body = {"messages": [{"role": "user", "content": tenant}], "max_tokens": 20, **fields}
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (HEADER.encode(), tenant.encode())]
    scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": headers,
    }  # fmt: skip
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    return asyncio.create_task(app(scope, incoming.get, send)), incoming, sent


async def test_a_client_that_leaves_the_queue_is_forgotten_at_once(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    running, incoming, sent = start(app, "b")
    async with asyncio.timeout(5):
        while await waiting(client) == 0:
            await asyncio.sleep(0)
    incoming.put_nowait({"type": "http.disconnect"})
    await running
    assert (sent, await waiting(client)) == ([], 0)
    assert engine.hold
    engine.hold.set()
    assert (await chat(client, "a", "after")).status_code == 200
    assert order(engine) == ["held", "after"]


async def test_a_grammar_that_is_being_compiled_keeps_no_slot_and_ends_when_its_client_leaves(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold_grammars = asyncio.Event()
    fields = {"structured_outputs": {"regex": "slow"}}
    leaving, incoming, sent = start(app, "single", **fields)
    staying = asyncio.create_task(chat(client, "a", **fields))
    await until(lambda: len(engine.grammars) == 2)
    async with asyncio.timeout(5):
        assert (await chat(client, "b", "b1")).status_code == 200  # by the only slot
        assert (await chat(client, "single")).status_code == 429  # it is open
        incoming.put_nowait({"type": "http.disconnect"})
        await leaving
    assert sent == []
    assert (await chat(client, "single", "single")).status_code == 200
    engine.hold_grammars.set()
    assert (await staying).status_code == 200
    assert order(engine) == ["b1", "single", ""]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_client_that_leaves_the_queue_is_no_error_of_the_server_in_any_metric(
    app: FastAPI, client: httpx.AsyncClient, held: "asyncio.Task[Any]", is_cancelled: bool
) -> None:
    running, incoming, _ = start(app, "b")
    async with asyncio.timeout(5):
        while await waiting(client) == 0:
            await asyncio.sleep(0)
    if is_cancelled:  # as a line of a batch that ends
        running.cancel()
    else:
        incoming.put_nowait({"type": "http.disconnect"})
    await asyncio.gather(running, return_exceptions=True)
    lines = [line for line in await metrics(client) if '="499"' in line]
    counted = {line.partition("{")[0] for line in lines if line.endswith(" 1.0")}
    assert counted >= {
        "tinylora_requests_total",
        "tinylora_tenant_requests_total",
        "tinylora_http_request_duration_seconds_count",
        "gen_ai_server_request_duration_seconds_count",
    }
    assert not [line for line in await metrics(client) if '="5xx"' in line or '="500"' in line]


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_stream_holds_its_slot_until_its_last_byte_or_until_its_client_leaves(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, leaves: bool
) -> None:
    engine.hold = asyncio.Event()
    stream, incoming, sent = start(app, "a", stream=True)
    await until(lambda: len(sent) == 2)
    (waits,) = await enqueue(app, client, "b", ["b1"])
    assert len(engine.received) == 1
    if leaves:
        incoming.put_nowait({"type": "http.disconnect"})
    else:
        engine.hold.set()
    await stream
    await until(lambda: len(engine.received) == 2)
    engine.hold.set()
    assert (await waits).status_code == 200


async def test_answers_tell_the_state_of_the_quotas_and_tokens_are_settled_by_the_engines_count(
    client: httpx.AsyncClient,
) -> None:
    headers = [(await chat(client, "short", "x" * 40)).headers for _ in range(2)]
    # 10 tokens of text and 2 of the role, and an answer of at most 20; then the engine says that it took 3 + 2.
    assert [int(h["x-ratelimit-remaining-tokens"]) for h in headers] == [100 - 31, 100 - 5 - 31]
    assert headers[0]["x-ratelimit-limit-tokens"] == "100"
    assert headers[0]["x-ratelimit-reset-tokens"].endswith("s")
    assert "x-ratelimit-limit-requests" not in headers[0]
    assert not [name for name in (await chat(client, "a")).headers if name.startswith("x-ratelimit")]


async def test_a_demand_beyond_the_minutes_quota_is_refused_for_good(client: httpx.AsyncClient) -> None:
    refused = await chat(client, "short", "x" * 400)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    assert "retry-after" not in refused.headers
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert "at most 100 tokens per minute and this one alone may take" in error["message"]


async def test_an_answer_that_its_client_did_not_wait_for_is_charged_as_estimated(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    running, incoming, _ = start(app, "short")
    await until(lambda: len(engine.received) == 1)
    incoming.put_nowait({"type": "http.disconnect"})
    await running
    engine.hold.set()
    left = int((await chat(client, "short")).headers["x-ratelimit-remaining-tokens"])
    assert left <= 100 - 20 - 20


async def test_one_open_request_at_a_time(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    tasks = await enqueue(app, client, "single", ["single"])
    refused = await chat(client, "single")
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "requests")
    assert engine.hold
    engine.hold.set()
    await asyncio.gather(*tasks)
    assert (await chat(client, "single")).status_code == 200


async def test_only_routes_that_run_the_model_are_counted(client: httpx.AsyncClient) -> None:
    headers = {HEADER: "few"}
    for _ in range(5):
        assert (await client.post("/tokenize", json={"prompt": "x"}, headers=headers)).status_code == 200
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert (await client.post(PATH, content=b"[]", headers=headers | {"content-type": "application/json"})).is_error
    assert (await chat(client, "few")).headers["x-ratelimit-remaining-requests"] == "1"


async def test_how_long_requests_waited_is_measured(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    assert {"tinylora_running_sequences 1.0", "tinylora_running_request_sequences 1.0"} <= set(await metrics(client))
    tasks = await enqueue(app, client, "b", ["b1"])
    assert 'tinylora_wait_seconds_count{class="request",tenant="all"} 1.0' in await metrics(client)
    assert engine.hold
    engine.hold.set()
    await asyncio.gather(*tasks, held)
    lines = await metrics(client)
    assert 'tinylora_wait_seconds_count{class="request",tenant="all"} 2.0' in lines
    assert "tinylora_running_sequences 0.0" in lines


async def test_less_urgent_requests_are_apart_from_what_gateways_are_added_by(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine, held: "asyncio.Task[Any]"
) -> None:
    tasks = await enqueue(app, client, "a", ["rollout 1", "rollout 2"], priority=100)
    lines = await metrics(client)
    assert {"tinylora_waiting_requests 0.0", "tinylora_waiting_less_urgent_requests 2.0"} <= set(lines)
    assert engine.hold
    engine.hold.set()
    await asyncio.gather(*tasks)
    line = json.dumps({"model": BASE, "messages": [{"role": "user", "content": ""}], "max_tokens": 1}).encode()
    assert (await ask(app, PATH, line, PRINCIPALS["a"], "line")).status == 200
    counts = [line for line in await metrics(client) if line.startswith("tinylora_wait_seconds_count")]
    assert sorted(counts) == [
        'tinylora_wait_seconds_count{class="batch",tenant="all"} 1.0',
        'tinylora_wait_seconds_count{class="less_urgent",tenant="all"} 2.0',
        'tinylora_wait_seconds_count{class="request",tenant="all"} 1.0',
    ]


def test_the_official_client_raises_rate_limit_errors_and_reads_the_headers(openai_client: openai.OpenAI) -> None:
    client = openai_client.with_options(default_headers={HEADER: "few"})
    call = client.chat.completions.with_raw_response.create
    answers = [call(model="acme/base-135m", messages=[{"role": "user", "content": "x"}]) for _ in range(2)]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers] == ["1", "0"]
    with pytest.raises(openai.RateLimitError, match="tenant few on requests per minute: limit 2, used 2") as caught:
        call(model="acme/base-135m", messages=[{"role": "user", "content": "x"}])
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30


async def test_concurrent_requests_cannot_both_have_the_last_of_a_quota(app: FastAPI) -> None:
    async with client_of(app) as client:
        answers = await asyncio.gather(*(chat(client, "few") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]


async def test_a_burst_of_short_chats_does_not_pass_the_quota_by_what_the_template_adds(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_queued_requests": 64}), engine, app_database)
    act_as(app, PRINCIPALS)
    engine.template_cost = TemplateCost(conversation=22, message=4)
    engine.prompt_tokens = 28  # "hi" and its role, and what the template adds
    async with client_of(app) as client:
        answers = await asyncio.gather(*(chat(client, "short", "hi", max_tokens=2) for _ in range(33)))
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.status_code == 200)
    assert {answer.status_code for answer in answers} == {200, 429}
    assert 60 <= used <= 200  # of the 100, and what comes back meanwhile


async def test_an_answer_longer_than_estimated_is_charged_while_it_grows(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold, engine.prompt_tokens = asyncio.Event(), 95
    running = asyncio.create_task(chat(client, "short", stream=True))
    await until(lambda: len(engine.received) == 1)
    async with asyncio.timeout(5):
        while (await client.get("/v1/limits", headers={HEADER: "short"})).json()["quotas"][0]["remaining"] > 0:
            await asyncio.sleep(0)
    refused = await chat(client, "short", max_tokens=1)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    engine.hold.set()
    await running
    engine.prompt_tokens = 3
    # It has ended, and is settled by the count of the engine: 97 of the 100.
    left = int((await chat(client, "short", max_tokens=1)).headers["x-ratelimit-remaining-tokens"])
    assert left < 50


async def test_more_answers_than_run_at_once_are_refused_but_for_the_operator(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    """They would hold every slot until the last of them ended."""
    app = create_app(settings.model_copy(update={"max_running_requests": 4}), engine, app_database)
    operator = Principal(Tenant(9, "o"), "key_o", frozenset({"admin"}))
    act_as(app, {**PRINCIPALS, "o": operator})
    async with client_of(app) as client:
        assert (await chat(client, "a", n=4)).status_code == 200
        refused = await chat(client, "a", n=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_answers")
        assert "5 answers" in refused.json()["error"]["message"] and "at most 4" in refused.json()["error"]["message"]
        assert (await chat(client, "o", n=5)).status_code == 200


async def test_inputs_of_one_request_are_bounded(client: httpx.AsyncClient) -> None:
    async def embed(count: int) -> httpx.Response:
        return await client.post("/v1/embeddings", json={"input": ["x"] * count}, headers={HEADER: "a"})

    refused = await embed(2049)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_inputs")
    assert (await embed(2048)).status_code == 404  # by the engine, which has no such route


async def test_one_tenants_wide_request_keeps_no_other_tenant_waiting(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    key = secrets.token_hex(32)
    with_keys = {"admin_key": SecretStr(key), "max_running_requests": 16}
    app = create_app(settings.model_copy(update=with_keys), engine, app_database)
    act_as(app, PRINCIPALS)
    engine.hold = asyncio.Event()
    async with client_of(app) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        refused = await chat(client, "a", n=15)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_many_answers")
        assert "expected at most 14" in refused.json()["error"]["message"]
        wide = asyncio.create_task(chat(client, "a", n=14))
        await until(lambda: len(engine.received) == 1)
        short = asyncio.create_task(chat(client, "b", n=2))
        await until(lambda: len(engine.received) == 2)
        engine.hold.set()
        assert [(await task).status_code for task in (wide, short)] == [200, 200]
