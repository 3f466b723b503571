"""Usage is what the engine did, all of it, whoever counts it and however requests and gateways end."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from asgi_lifespan import LifespanManager
from fastapi import FastAPI
from openai.types.admin.organization import usage_completions_response
from prometheus_client import Counter as PrometheusCounter
from sqlalchemy import make_url
from sqlalchemy.engine import Connection

from server.api.app import create_app
from server.core.errors import Unavailable
from server.core.months import month_start
from server.core.principal import Principal
from server.core.request_state import RequestUsage
from server.core.settings import Settings
from server.db.database import Database
from server.db.tables import USAGE, USAGE_MONTHS
from server.engine.protocol import ServedAdapter
from server.inference.usage_meter import UsageMeter
from server.inference.usage_report import Cursor, UsageQuery, parse_cursor, read_usage
from tests.postgres import PostgresServer
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import FakeEngine

HOUR, DAY = 3600, 86_400
NOW = 500_000 * HOUR + 1800
CHAT = "/v1/chat/completions"


def meter_of(database: Database, now: float = NOW, max_rows: int = 1000) -> UsageMeter:
    return UsageMeter(database, PrometheusCounter("failures", "", registry=None), max_rows=max_rows, clock=lambda: now)


def served(name: str) -> ServedAdapter:
    return ServedAdapter(f"{name}@1", None, name)  # type: ignore[arg-type]


def used(meter: UsageMeter, who: Principal, adapter: str | None, prompt: int, completion: int) -> None:
    usage = RequestUsage()
    with meter.counted(who, None if adapter is None else served(adapter), usage):
        usage.add(prompt, completion)


def rows(database: Database) -> dict[tuple[Any, ...], tuple[int, ...]]:
    with database.read() as connection:
        return {tuple(row[:4]): tuple(row[4:]) for row in connection.execute(sa.select(USAGE))}


def test_requests_add_up_by_hour_tenant_key_and_adapter(database: Database) -> None:
    acme = new_tenant(database, "acme")
    one, two = principal(acme, "key_1"), principal(acme, "key_2")
    early, late = meter_of(database), meter_of(database, NOW + HOUR)
    used(early, one, "math", 3, 4)
    used(early, one, "math", 30, 40)
    used(early, two, "math", 5, 6)
    used(early, principal(), None, 7, 8)
    used(late, one, "math", 9, 10)
    early.flush(), late.flush()
    hour = NOW // HOUR * HOUR
    assert rows(database) == {
        (hour, acme.id, "key_1", "math@1"): (2, 33, 44),
        (hour, acme.id, "key_2", "math@1"): (1, 5, 6),
        (hour, 1, "", "base"): (1, 7, 8),
        (hour + HOUR, acme.id, "key_1", "math@1"): (1, 9, 10),
    }
    early.flush(), late.flush()
    assert len(rows(database)) == 4 and rows(database)[hour, 1, "", "base"] == (1, 7, 8)
    with database.read() as connection:
        months = connection.execute(sa.select(USAGE_MONTHS).order_by(USAGE_MONTHS.c.tenant_id)).all()
    assert months == [(1, month_start(NOW), 15), (acme.id, month_start(NOW), 107)]


def test_gateways_that_write_the_same_rows_at_once_lose_nothing(database: Database) -> None:
    tenants = [principal(new_tenant(database, f"t{number}")) for number in range(5)]

    def gateway() -> None:
        own = Database(database.url.render_as_string(hide_password=False))
        meter = meter_of(own)
        for round_ in range(10):
            for tenant in tenants if round_ % 2 else reversed(tenants):
                used(meter, tenant, "math", 1, 2)
            meter.flush()
        own.close()

    threads = [threading.Thread(target=gateway) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(rows(database).values()) == {(40, 40, 80)} and len(rows(database)) == 5
    with database.read() as connection:
        assert connection.execute(sa.select(USAGE_MONTHS.c.tokens)).scalars().all() == [120] * 5


def test_running_requests_are_counted_as_far_as_they_are_and_once(database: Database) -> None:
    meter = meter_of(database)
    usage, idle = RequestUsage(), RequestUsage()
    key = (NOW // HOUR * HOUR, 1, "", "base")
    with meter.counted(principal(), None, usage), meter.counted(principal(), None, idle):
        meter.flush()
        assert rows(database) == {}
        usage.add(10, 1)
        meter.flush()
        assert rows(database) == {key: (1, 10, 1)}
        usage.add(0, 5)
    meter.flush()
    assert rows(database) == {key: (1, 10, 6)}


def test_a_request_that_fails_counts_for_what_the_engine_did(database: Database) -> None:
    meter = meter_of(database)
    usage = RequestUsage()
    with pytest.raises(ZeroDivisionError), meter.counted(principal(), None, usage):
        usage.add(3, 1)
        raise ZeroDivisionError
    meter.flush()
    assert list(rows(database).values()) == [(1, 3, 1)]


def test_what_cannot_be_written_is_kept_and_written_later(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/tinylora.db", busy_timeout_s=0.01)
    meter = meter_of(database)
    used(meter, principal(), None, 1, 2)
    lock = sqlite3.connect(make_url(str(database.url)).database or "", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(Unavailable):
            meter.flush()
        used(meter, principal(), None, 10, 20)
    lock.execute("ROLLBACK")
    lock.close()
    meter.flush()
    assert list(rows(database).values()) == [(3, 21, 42)]
    database.close()


def test_memory_is_bounded_and_tenants_are_billed_all_the_same(database: Database) -> None:
    meter = meter_of(database, max_rows=10)
    acme = new_tenant(database, "acme")
    for number in range(50):
        used(meter, principal(acme, f"key_{number % 7}"), f"a{number}", 1, 1)
    meter.flush()
    assert len(rows(database)) == 11
    assert rows(database)[NOW // HOUR * HOUR, acme.id, "", "other"] == (40, 40, 40)


async def test_the_app_writes_while_it_runs_and_when_it_ends(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"usage_flush_s": 0.01}), engine, app_database)
    async with LifespanManager(app), client_of(app) as client:
        await client.post(CHAT, json={"messages": []})
        while not rows(app_database):
            await asyncio.sleep(0.01)
    app = create_app(settings.model_copy(update={"usage_flush_s": 3600.0}), engine, app_database)
    async with LifespanManager(app), client_of(app) as client:
        await client.post(CHAT, json={"messages": []})
    assert list(rows(app_database).values()) == [(2, 6, 4)]


async def test_what_is_used_while_a_flush_runs_is_written_though_the_app_ends_then(database: Database) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(Database):
        def transact(self, do: Callable[[Connection], Any]) -> Any:
            begun.set()
            goes_on.wait()
            return super().transact(do)

    slow = Slow(database.url.render_as_string(hide_password=False))
    meter = meter_of(slow)
    async with meter.flushing(0.001):
        used(meter, principal(), None, 1, 2)
        await asyncio.to_thread(begun.wait)
        used(meter, principal(), None, 10, 20)
        asyncio.get_running_loop().call_soon(goes_on.set)  # when the block has ended
    assert list(rows(database).values()) == [(2, 11, 22)]
    slow.close()


async def test_a_flush_that_fails_is_counted_and_logged(
    settings: Settings, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(settings.database_url, busy_timeout_s=0.01)
    app = create_app(settings.model_copy(update={"usage_flush_s": 0.01}), engine, database)
    lock = sqlite3.connect(make_url(settings.database_url).database or "", isolation_level=None)
    async with LifespanManager(app), client_of(app) as client:
        await client.post(CHAT, json={"messages": []})
        lock.execute("BEGIN IMMEDIATE")
        await client.post(CHAT, json={"messages": []})
        while "tinylora_usage_flush_failures_total 0.0" in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
        lock.execute("ROLLBACK")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"rows": 1, "level": "error"}.items() <= next(
        line.items() for line in lines if line["event"].startswith("usage not written")
    )
    assert list(rows(database).values()) == [(2, 6, 4)]
    lock.close()
    database.close()


async def test_a_flush_that_a_frozen_server_holds_up_is_counted_and_ends(
    postgres: PostgresServer, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(postgres_url, busy_timeout_s=0.1, statement_timeout_s=0.8)
    failures = PrometheusCounter("failures", "", registry=None)
    meter = UsageMeter(database, failures)
    with database.read() as connection:  # the pool gives out the same one next
        frozen = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    used(meter, principal(), None, 1, 2)
    with postgres.frozen(frozen):
        async with meter.flushing(0.01, late_s=0.1):
            while next(iter(failures.collect())).samples[0].value < 2:
                await asyncio.sleep(0.01)
        assert list(rows(database).values()) == [(1, 1, 2)]
    assert "usage is still being written" in capsys.readouterr().out
    database.close()


# Over HTTP.


@pytest.fixture
async def client(app: FastAPI, app_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    acme, globex = new_tenant(app_database, "acme"), new_tenant(app_database, "globex")
    people = {
        "acme": principal(acme, "key_a"),
        "acme2": principal(acme, "key_b"),
        "globex": principal(globex, "key_g"),
        "root": principal(acme, None, "admin"),
    }
    act_as(app, people)
    async with client_of(app) as client:
        yield client


async def chat(client: httpx.AsyncClient, who: str, adapter: object = None, **body: object) -> httpx.Response:
    body = {"messages": [], **body, **({} if adapter is None else {"adapter": adapter})}
    return await client.post(CHAT, json=body, headers={HEADER: who})


async def ask(client: httpx.AsyncClient, who: str, **query: object) -> httpx.Response:
    query = {"start_time": int(time.time()) - DAY, **query}
    return await client.get("/usage", params=query, headers={HEADER: who})  # type: ignore[arg-type]


async def results(client: httpx.AsyncClient, who: str, **query: object) -> list[dict[str, Any]]:
    """The results of all buckets, those of yesterday's midnight included."""
    response = await ask(client, who, **query)
    assert response.status_code == 200, response.text
    return [result for bucket in response.json()["data"] for result in bucket["results"]]


def brief(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("project_id", "api_key_id", "model", "num_model_requests", "input_tokens", "output_tokens")
    return [tuple(result[name] for name in names) for result in found]


async def test_usage_is_current_when_it_is_asked_for_and_only_of_the_one_who_asks(client: httpx.AsyncClient) -> None:
    await chat(client, "acme")
    await chat(client, "acme", stream=True)
    await chat(client, "globex")
    assert brief(await results(client, "acme")) == [(None, None, None, 2, 6, 4)]
    await chat(client, "acme2")
    assert brief(await results(client, "acme")) == [(None, None, None, 3, 9, 6)]
    assert brief(await results(client, "globex")) == [(None, None, None, 1, 3, 2)]


async def test_usage_is_grouped_and_filtered_by_adapter_and_key(client: httpx.AsyncClient) -> None:
    for name in ("math", "math", "Math", "math_", "mathe"):
        await client.post("/adapters", json={"name": name, "vector": [0.5] * 13}, headers={HEADER: "acme"})
    await client.patch("/adapters/math", json={"public": True}, headers={HEADER: "acme"})
    for who, adapter in (
        ("acme", None), ("acme", "math"), ("acme2", "math@1"), ("acme2", "math"), ("acme", "Math"), ("acme", "math_"),
        ("acme", "mathe"), ("acme", {"vector": [0.5] * 13}), ("acme", [{"adapter": "math", "weight": 0.5}]),
        ("globex", "~acme/math"), ("acme", "none"),
    ):  # fmt: skip
        await chat(client, who, adapter)
    by_adapter = await results(client, "acme", group_by="adapter")
    assert {(result["model"], result["num_model_requests"]) for result in by_adapter} == {
        ("base", 1), ("math@1", 1), ("math@2", 2), ("Math@1", 1), ("math_@1", 1), ("mathe@1", 1),
        ("inline", 1), ("mix", 1),
    }  # fmt: skip
    assert brief(await results(client, "acme", adapters="math", group_by=["adapter", "key"])) == [
        (None, "key_b", "math@1", 1, 3, 2),
        (None, "key_a", "math@2", 1, 3, 2),
        (None, "key_b", "math@2", 1, 3, 2),
    ]
    assert brief(await results(client, "acme", adapters=["math@1", "Math"])) == [(None, None, None, 2, 6, 4)]
    assert brief(await results(client, "acme", keys="key_b")) == [(None, None, None, 2, 6, 4)]
    assert brief(await results(client, "globex", group_by="model")) == [(None, None, "~acme/math@2", 1, 3, 2)]


async def test_only_an_admin_sees_other_tenants(client: httpx.AsyncClient) -> None:
    await chat(client, "acme")
    await chat(client, "globex")
    await chat(client, "root")
    assert brief(await results(client, "root")) == [(None, None, None, 2, 6, 4)]
    assert brief(await results(client, "root", all_tenants=True)) == [(None, None, None, 3, 9, 6)]
    by_tenant = [("acme", None, None, 2, 6, 4), ("globex", None, None, 1, 3, 2)]
    assert brief(await results(client, "root", group_by="tenant")) == by_tenant
    assert brief(await results(client, "root", tenants="globex")) == [(None, None, None, 1, 3, 2)]
    assert brief(await results(client, "acme", group_by="tenant", tenants="acme")) == by_tenant[:1]
    for query in ({"all_tenants": True}, {"tenants": "globex"}, {"tenants": ["acme", "globex"]}):
        response = await ask(client, "acme", **query)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "insufficient_permissions")


async def test_requests_that_run_no_model_or_are_refused_are_no_usage(client: httpx.AsyncClient) -> None:
    headers = {HEADER: "acme"}
    await client.post("/tokenize", json={"prompt": "x"}, headers=headers)
    await chat(client, "acme", "none")
    await client.post(CHAT, json={"messages": 1}, headers=headers)
    await client.post("/v1/fail/defect", json={}, headers=headers)
    assert await results(client, "acme") == []


async def test_a_stream_that_its_client_left_counts_as_far_as_it_came(
    client: httpx.AsyncClient, app: FastAPI, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    body = json.dumps({"messages": [], "stream": True}).encode()
    scope = {
        "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), (HEADER.encode(), b"acme")],
    }  # fmt: skip
    sent: asyncio.Queue[Any] = asyncio.Queue()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    running = asyncio.create_task(app(scope, incoming.get, sent.put))
    await sent.get(), await sent.get()
    assert brief(await results(client, "acme")) == [(None, None, None, 1, 3, 1)]
    incoming.put_nowait({"type": "http.disconnect"})
    await running
    assert brief(await results(client, "acme")) == [(None, None, None, 1, 3, 1)]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"start_time": "soon"}, "start_time"),
        ({"start_time": -1}, "start_time"),
        ({"start_time": 10, "end_time": 10}, "end_time"),
        ({"start_time": 2**40}, "start_time"),
        ({"bucket_width": "1m"}, "bucket_width"),
        ({"bucket_width": "1d", "limit": 32}, "limit"),
        ({"limit": 0}, "limit"),
        ({"group_by": "colour"}, "group_by[0]"),
        ({"page": "x"}, "page"),
        ({"page": "W10"}, "page"),
        ({"page": "WzEsICJhIl0"}, "page"),
        ({"adapters": "a\0"}, "adapters[0]"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, query: dict[str, object], param: str
) -> None:
    response = await ask(client, "acme", **query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_start_time_is_required(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/usage", headers={HEADER: "acme"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "missing_required_parameter")


def fill(database: Database, hours: Mapping[int, int]) -> None:
    """In every hour so many adapters with a request each."""
    values = [
        {"hour": hour, "tenant_id": 1, "key_id": "", "adapter": f"a{number}@1", "requests": 1, "prompt_tokens": 2,
         "completion_tokens": 3}
        for hour, number_of_adapters in hours.items() for number in range(number_of_adapters)
    ]  # fmt: skip
    with database.write() as connection:
        connection.execute(USAGE.insert(), values)


async def test_buckets_cover_the_time_asked_for_empty_ones_too(
    client: httpx.AsyncClient, app_database: Database
) -> None:
    begin = 20_000 * DAY
    fill(app_database, {begin: 2, begin + 5 * HOUR: 1, begin + DAY: 4, begin + 3 * DAY: 8})
    response = await client.get("/usage", params={"start_time": begin + 1, "end_time": begin + 2 * DAY + 1})
    assert [
        (bucket["start_time"], bucket["end_time"], [result["num_model_requests"] for result in bucket["results"]])
        for bucket in response.json()["data"]
    ] == [(begin, begin + DAY, [3]), (begin + DAY, begin + 2 * DAY, [4]), (begin + 2 * DAY, begin + 3 * DAY, [])]
    assert response.json()["has_more"] is False and response.json()["next_page"] is None
    hourly = {"start_time": begin, "end_time": begin + 6 * HOUR, "bucket_width": "1h", "limit": 4}
    first = (await client.get("/usage", params=hourly)).json()
    second = (await client.get("/usage", params={**hourly, "page": first["next_page"]})).json()
    assert (len(first["data"]), first["has_more"], len(second["data"]), second["has_more"]) == (4, True, 2, False)
    assert [bucket["start_time"] for bucket in first["data"] + second["data"]] == list(
        range(begin, begin + 6 * HOUR, HOUR)
    )


async def test_a_page_of_another_query_is_refused(client: httpx.AsyncClient, app_database: Database) -> None:
    begin = 20_000 * DAY
    fill(app_database, {begin + hour * HOUR: 1 for hour in range(30)})
    query: dict[str, object] = {"start_time": begin, "end_time": begin + 2 * DAY, "bucket_width": "1h", "limit": 5}
    page = (await client.get("/usage", params=query)).json()["next_page"]  # type: ignore[arg-type]
    response = await client.get("/usage", params={**query, "bucket_width": "1d", "page": page})  # type: ignore[dict-item]
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "page", "invalid_value")
    assert error["message"] == f"page is '{page}', expected the next_page of an answer to the same query"


def test_pages_of_many_results_repeat_and_skip_nothing(database: Database) -> None:
    begin = 20_000 * DAY
    fill(database, {begin: 6, begin + HOUR: 3, begin + DAY: 6, begin + 3 * DAY: 1})
    query = UsageQuery(1, begin, begin + 5 * DAY, DAY, groups=("adapter", "key"))
    expected = [
        *((begin, f"a{number}@1", 2 if number < 3 else 1) for number in range(6)),
        *((begin + DAY, f"a{number}@1", 1) for number in range(6)),
        (begin + 3 * DAY, "a0@1", 1),
    ]
    for max_results in (1, 2, 3, 5, 12, 100):
        cursor: Cursor | None = Cursor(begin)
        found: list[tuple[int, str | None, int]] = []
        while cursor is not None:
            with database.read() as connection:
                report = read_usage(connection, query, parse_cursor(str(cursor), query), 2, max_results)
            page = [(bucket, usage.adapter, usage.requests) for bucket, usages in report.buckets for usage in usages]
            assert len(page) <= max_results and len(report.buckets) <= 2
            found += page
            cursor = report.next
        assert found == expected


def test_the_official_client_reads_it(openai_client: openai.OpenAI, base_url: str, app_database: Database) -> None:
    today = int(time.time()) // DAY * DAY
    fill(app_database, {today - 9 * DAY: 1, today - DAY: 2})
    openai_client.chat.completions.create(model="base-alias", messages=[{"role": "user", "content": "hi"}])
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="unused", admin_api_key="unused") as client:
        completions = client.admin.organization.usage.completions
        page = completions(start_time=today - 9 * DAY, group_by=["model", "project_id"], limit=9)
        after = completions(start_time=today - 9 * DAY, group_by=["model"], models=["base"], page=page.next_page or "")
    assert page.has_more and [len(bucket.results) for bucket in page.data] == [1, 0, 0, 0, 0, 0, 0, 0, 2]
    (first,) = page.data[0].results
    assert isinstance(first, usage_completions_response.DataResultOrganizationUsageCompletionsResult)
    assert (first.model, first.project_id, first.input_tokens, first.output_tokens) == ("a0@1", "default", 2, 3)
    (last,) = after.data[-1].results
    assert isinstance(last, usage_completions_response.DataResultOrganizationUsageCompletionsResult)
    assert (last.model, last.num_model_requests, last.input_tokens, last.output_tokens) == ("base", 1, 3, 2)
