"""Webhooks: registered, signed, told and repeated on a real socket of this machine; the official client reads them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from openai.types.webhooks import WebhookEndpointWithSecret
from pydantic import SecretStr

from server.api.app import create_app
from server.core.clock import following
from server.core.settings import Settings
from server.db.database import Database
from server.db.webhook_tables import WEBHOOK_DELIVERIES, WEBHOOK_ENDPOINTS
from server.endpoints.webhook_delivery import LEASE_S, MAX_AGE_S, MAX_DELAY_S, delay_s, take_due
from server.endpoints.webhooks import EVENT_TYPES, MAX_ENDPOINTS
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.served import served
from tests.server.support.training_kit import REINFORCEMENT, ROWS
from tests.server.training.graders.endpoint_app import EndpointApp, endpoint_app

KEY = "f1d2d2f924e986ac86fdf7b36c94bcdf32beec15"


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, database: Database) -> FastAPI:
    """Its operator allows this machine."""
    allowed = {"endpoint_hosts": "*,localhost", "webhook_key": SecretStr(KEY)}
    return create_app(settings.model_copy(update=allowed), engine, database)


def official(http: httpx.AsyncClient, tenant: str | None = None) -> openai.AsyncOpenAI:
    headers = {HEADER: tenant} if tenant else {}
    return openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="unused", http_client=http, max_retries=0, default_headers=headers
    )


@pytest.fixture
async def asking(client: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    yield official(client)


async def register(client: openai.AsyncOpenAI, endpoint: EndpointApp, *types: Any) -> WebhookEndpointWithSecret:
    return await client.webhooks.create(name="mine", url=endpoint.url, event_types=list(types or EVENT_TYPES))


async def deliver(app: FastAPI) -> None:
    await app.state.gateway.webhooks.deliver_due(asyncio.Event())
    await app.state.gateway.webhooks.told()


async def a_cancelled_job(client: openai.AsyncOpenAI) -> str:
    file = await client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    method: Any = REINFORCEMENT
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=file.id, method=method)
    return (await client.fine_tuning.jobs.cancel(job.id)).id


async def test_the_end_of_a_job_is_told_once_and_the_official_client_reads_it(
    app: FastAPI, asking: openai.AsyncOpenAI
) -> None:
    with endpoint_app((200, {})) as endpoint, endpoint_app((200, {})) as another:
        webhook = await register(asking, endpoint)
        await register(asking, another, "response.completed")
        job_id = await a_cancelled_job(asking)
        await deliver(app)
        await deliver(app)
    [(headers, body)] = endpoint.requests
    event = asking.webhooks.unwrap(body, headers, secret=webhook.signing_secret)
    assert event.type == "fine_tuning.job.cancelled" and event.data.id == job_id
    assert event.object == "event" and event.id == headers["webhook-id"] and abs(event.created_at - time.time()) < 60
    assert another.requests == []
    told = await asking.webhooks.retrieve(webhook.id)
    assert told.model_dump()["delivered_at"] is not None and told.model_dump()["error"] is None


async def test_the_end_of_a_background_response_is_told_and_of_no_other(
    app: FastAPI, asking: openai.AsyncOpenAI
) -> None:
    with endpoint_app((200, {})) as endpoint:
        webhook = await register(asking, endpoint)
        await asking.responses.create(model=BASE, input="one")
        ids = [(await asking.responses.create(model=BASE, input="one", background=True, max_output_tokens=most)).id
               for most in (100, 2)]  # fmt: skip
        for response_id in ids:
            while (await asking.responses.retrieve(response_id)).status in ("queued", "in_progress"):
                await asyncio.sleep(0.01)
        await deliver(app)
    events = [
        asking.webhooks.unwrap(body, headers, secret=webhook.signing_secret) for headers, body in endpoint.requests
    ]
    assert sorted((event.type, event.data.id) for event in events) == [
        ("response.completed", ids[0]),
        ("response.incomplete", ids[1]),
    ]


def test_the_end_of_a_batch_is_told_by_a_server_that_runs(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"endpoint_hosts": "localhost"}), engine, app_database)
    with endpoint_app((200, {})) as endpoint, served(app) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        webhook = client.webhooks.create(name="mine", url=endpoint.url, event_types=["batch.failed"])
        lines = client.files.create(file=("lines.jsonl", b"{}\n"), purpose="batch")
        batch = client.batches.create(input_file_id=lines.id, endpoint="/v1/chat/completions", completion_window="24h")
        while not endpoint.requests:
            assert client.batches.retrieve(batch.id).status in ("validating", "finalizing", "failed")
            time.sleep(0.1)
        client.close()
    [(headers, body)] = endpoint.requests
    event = client.webhooks.unwrap(body, headers, secret=webhook.signing_secret)
    assert event.type == "batch.failed" and event.data.id == batch.id


async def test_an_event_that_was_not_taken_is_told_again(
    app: FastAPI, asking: openai.AsyncOpenAI, database: Database
) -> None:
    with endpoint_app((500, {}), (302, {}), (200, {})) as endpoint:
        webhook = await register(asking, endpoint)
        await a_cancelled_job(asking)
        at = time.time()
        for attempt in range(3):
            with following(lambda at=at: at):
                await deliver(app)
                await deliver(app)
            assert len(endpoint.requests) == attempt + 1
            at += delay_s(attempt + 1) * 1.3
            seen = (await asking.webhooks.retrieve(webhook.id)).model_dump()
            assert seen["error"] == f"the endpoint answered with status {(500, 302, 302)[attempt]}"
    assert len({headers["webhook-id"] for headers, _ in endpoint.requests}) == 1
    with database.read() as connection:
        assert connection.execute(sa.select(WEBHOOK_DELIVERIES)).all() == []


@pytest.mark.parametrize("mended", ["url", "secret", "test"])
async def test_an_endpoint_that_was_mended_is_told_what_waits(
    app: FastAPI, asking: openai.AsyncOpenAI, database: Database, mended: str
) -> None:
    failures = 7
    with endpoint_app(*[(500, {})] * failures, (200, {})) as endpoint, endpoint_app((200, {})) as other:
        webhook = await register(asking, endpoint)
        await a_cancelled_job(asking)
        at = time.time()
        for attempt in range(1, failures + 1):
            with following(lambda at=at: at):
                await deliver(app)
            at += delay_s(attempt) * 1.3
        await deliver(app)
        assert len(endpoint.requests) == failures
        if mended == "url":
            await asking.webhooks.update(webhook.id, url=other.url)
        elif mended == "secret":
            await asking.webhooks.rotate_secret(webhook.id)
        else:
            await asking.webhooks.test(webhook.id, event_type="batch.completed")
        await deliver(app)
        told = (other if mended == "url" else endpoint).requests[-1]
    assert "fine_tuning.job.cancelled" in str(told[1])
    with database.read() as connection:
        assert connection.execute(sa.select(WEBHOOK_DELIVERIES)).all() == []


async def test_an_endpoint_that_is_changed_while_it_is_told_is_told_by_nobody_else(
    app: FastAPI, asking: openai.AsyncOpenAI, database: Database
) -> None:
    with endpoint_app((200, {})) as endpoint:
        webhook = await register(asking, endpoint)
        await a_cancelled_job(asking)
        assert len(database.transact(lambda connection: take_due(connection, 9))) == 1
        await asking.webhooks.rotate_secret(webhook.id)
        await deliver(app)
    assert endpoint.requests == []


async def test_an_event_is_given_up_some_time(app: FastAPI, asking: openai.AsyncOpenAI, database: Database) -> None:
    with endpoint_app((500, {})) as endpoint:
        await register(asking, endpoint)
        for _ in range(3):
            await a_cancelled_job(asking)
        at = time.time()
        for _ in range(12):
            with following(lambda at=at: at):
                await deliver(app)
            at += MAX_DELAY_S * 1.2
        # However many wait, and however long, each time is one attempt.
        assert 0 < MAX_AGE_S // (MAX_DELAY_S * 1.2) <= len(endpoint.requests) <= MAX_AGE_S // (MAX_DELAY_S * 1.2) + 2
    with database.read() as connection:
        assert connection.execute(sa.select(WEBHOOK_DELIVERIES)).all() == []


async def test_two_gateways_tell_an_event_once_and_one_that_dies_is_stood_in_for(
    app: FastAPI, asking: openai.AsyncOpenAI, settings: Settings, engine: FakeEngine, database: Database
) -> None:
    allowed = settings.model_copy(update={"endpoint_hosts": "*,localhost", "webhook_key": SecretStr(KEY)})
    other = create_app(allowed, engine, database)
    with endpoint_app((200, {})) as endpoint:
        webhook = await register(asking, endpoint)
        for _ in range(3):
            await a_cancelled_job(asking)
        await asyncio.gather(*(deliver(gateway) for gateway in (app, other) * 4))
        assert len(endpoint.requests) == 3
        await a_cancelled_job(asking)
        assert len(database.transact(lambda connection: take_due(connection, 9))) == 1  # and who took it is killed
        await deliver(other)
        assert len(endpoint.requests) == 3
        with following(lambda: time.time() + LEASE_S + 1):
            await deliver(other)
        [*_, (headers, body)] = endpoint.requests
        assert len(endpoint.requests) == 4
        assert headers["webhook-id"] in str(body)
        assert (await asking.webhooks.retrieve(webhook.id)).model_dump()["delivered_at"] is not None


async def test_the_secret_is_shown_once_and_not_in_the_database(
    app: FastAPI, client: httpx.AsyncClient, asking: openai.AsyncOpenAI, database: Database
) -> None:
    with endpoint_app((200, {})) as endpoint:
        body = {"name": "mine", "url": endpoint.url, "event_types": ["batch.completed"]}
        twice = [await client.post("/v1/webhook_endpoints", json=body, headers={"idempotency-key": "k"}) for _ in "12"]
        made, again = (answer.json() for answer in twice)
        assert made == again and [answer.headers["cache-control"] for answer in twice] == ["no-store"] * 2
        assert [answer.headers.get("idempotent-replayed") for answer in twice] == [None, "true"]
        secret, endpoint_id = made["signing_secret"], made["id"]
        assert secret.startswith("whsec_") and made["signing_secret_hint"] == f"whsec_...{secret[-4:]}"
        for shown in (await asking.webhooks.retrieve(endpoint_id), (await asking.webhooks.list()).data[0]):
            assert secret not in str(shown.model_dump())
        with database.read() as connection:
            for table in sa.inspect(connection).get_table_names():
                assert secret not in str(connection.execute(sa.text(f"SELECT * FROM {table}")).all())
        rotated = await asking.webhooks.rotate_secret(endpoint_id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != secret
        result = await asking.webhooks.test(endpoint_id, event_type="batch.completed")
        assert (result.status_code, result.success) == (200, True)
        [(headers, content)] = endpoint.requests
        for valid in (secret, rotated.signing_secret):
            assert asking.webhooks.unwrap(content, headers, secret=valid).type == "batch.completed"
        last = await asking.webhooks.rotate_secret(endpoint_id)
        await asking.webhooks.test(endpoint_id, event_type="batch.completed")
        headers, content = endpoint.requests[-1]
        asking.webhooks.verify_signature(content, headers, secret=last.signing_secret)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            asking.webhooks.verify_signature(content, headers, secret=rotated.signing_secret)


async def test_endpoints_are_changed_and_deleted(app: FastAPI, asking: openai.AsyncOpenAI, database: Database) -> None:
    assert (await asking.webhooks.event_types.list()).data == list(EVENT_TYPES)
    with endpoint_app((500, {})) as endpoint:
        webhook = await register(asking, endpoint)
        changed = await asking.webhooks.update(webhook.id, name="ours", event_types=["batch.failed"])
        assert (changed.name, changed.event_types, changed.url) == ("ours", ["batch.failed"], endpoint.url)
        await a_cancelled_job(asking)
        await asking.webhooks.update(webhook.id, event_types=["fine_tuning.job.cancelled"])
        await a_cancelled_job(asking)
        await deliver(app)
        assert len(endpoint.requests) == 1
        assert (await asking.webhooks.delete(webhook.id)).deleted is True
        with database.read() as connection:
            assert connection.execute(sa.select(WEBHOOK_DELIVERIES)).all() == []
        await register(asking, endpoint)
        for _ in range(MAX_ENDPOINTS - 1):
            await register(asking, endpoint)
        with pytest.raises(openai.BadRequestError, match="expected at most 20"):
            await register(asking, endpoint)
        assert len([one async for one in asking.webhooks.list(limit=7)]) == MAX_ENDPOINTS


@pytest.mark.parametrize("field", ["name", "url", "event_types"])
async def test_null_is_refused_of_an_endpoint_that_there_is_as_of_a_new_one(
    client: httpx.AsyncClient, field: str
) -> None:
    body = {"name": "mine", "url": "https://example.com/", "event_types": ["batch.completed"]}
    made = (await client.post("/v1/webhook_endpoints", json=body)).json()
    created = await client.post("/v1/webhook_endpoints", json={**body, field: None})
    changed = await client.post(f"/v1/webhook_endpoints/{made['id']}", json={field: None})
    assert (changed.status_code, changed.json()["error"]["param"]) == (400, field)
    assert changed.json() == created.json()
    same = await client.post(f"/v1/webhook_endpoints/{made['id']}", json={})
    assert (same.status_code, {key: same.json()[key] for key in body}) == (200, body)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:5432/", "is an address that is not public"),
        ("http://169.254.169.254/latest/meta-data", "is an address that is not public"),
        ("http://[::1]/", "is an address that is not public"),
        ("http://[::ffff:127.0.0.1]/", "is an address that is not public"),
        ("http://2130706433/", "is an address that is not public"),
        ("http://0x7f.1/", "is an address that is not public"),
        ("http://0177.0.0.1./", "is an address that is not public"),
        ("http://a.LOCALHOST./", "is this machine itself"),
        ("https://example.com:0/", "url: port 0 cannot be used; leave it out"),
        ("ftp://example.com/", "url: expected http"),
        ("https://user:password@example.com/", "would be shown"),
    ],
)
async def test_the_operators_own_network_is_not_reached(asking: openai.AsyncOpenAI, url: str, why: str) -> None:
    there = await asking.webhooks.create(name="mine", url="https://example.com/", event_types=["batch.completed"])
    for asked in (
        asking.webhooks.create(name="mine", url=url, event_types=["batch.completed"]),
        asking.webhooks.update(there.id, url=url),
    ):
        with pytest.raises(openai.BadRequestError, match=why) as caught:
            await asked
        assert caught.value.param == "url"


async def test_a_name_of_the_operators_network_is_not_reached_either(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    allowing = create_app(settings.model_copy(update={"endpoint_hosts": "localhost"}), engine, app_database)
    app = create_app(settings, engine, app_database)
    with endpoint_app((200, {})) as endpoint:
        async with client_of(allowing) as http:
            webhook = await register(official(http), endpoint)
        async with client_of(app) as http:
            with pytest.raises(openai.BadRequestError, match="this machine itself"):
                await register(official(http), endpoint)
            with pytest.raises(openai.BadRequestError, match="not delivered: the host 'localhost' is this machine"):
                await official(http).webhooks.test(webhook.id, event_type="batch.completed")
            await a_cancelled_job(official(http))
            await deliver(app)
            assert "this machine itself" in (await official(http).webhooks.retrieve(webhook.id)).model_dump()["error"]
    assert endpoint.requests == []


async def test_another_tenants_endpoint_never_was(app: FastAPI, database: Database) -> None:
    tenants = {name: principal(new_tenant(database, name), None, "train") for name in ("one", "other")}
    act_as(app, tenants)
    async with client_of(app) as http:
        with endpoint_app((200, {})) as endpoint:
            webhook = await register(official(http, "one"), endpoint)
            other = official(http, "other")
            assert (await other.webhooks.list()).data == []
            errors = []
            for endpoint_id in (webhook.id, f"we_{'0' * 28}"):
                asked: list[Any] = [
                    other.webhooks.retrieve(endpoint_id),
                    other.webhooks.update(endpoint_id, name="theirs"),
                    other.webhooks.rotate_secret(endpoint_id),
                    other.webhooks.test(endpoint_id, event_type="batch.completed"),
                    other.webhooks.delete(endpoint_id),
                ]
                for answer in asked:
                    with pytest.raises(openai.NotFoundError) as caught:
                        await answer
                    errors.append(caught.value.message.replace(endpoint_id, "it"))
            assert errors[:5] == errors[5:]
            await a_cancelled_job(other)
            await deliver(app)
            assert endpoint.requests == []
    with database.read() as connection:
        assert connection.execute(sa.select(WEBHOOK_ENDPOINTS.c.name)).scalars().all() == ["mine"]
