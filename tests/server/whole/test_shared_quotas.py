"""Two gateways on one PostgreSQL and one Redis: quotas hold over both, and without Redis requests go on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import cycle
from math import ceil

import httpx
import pytest
from asgi_lifespan import LifespanManager
from pydantic import SecretStr

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.redis_server import RedisServer
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer

CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
LOST, BACK = "Redis does not answer", "Redis answers again"
Gateways = tuple[Operator, Operator]


@pytest.fixture
def engines(factors: Factors) -> tuple[FakeEngine, FakeEngine]:
    return FakeEngine(factors), FakeEngine(factors)


@pytest.fixture
async def gateways(
    postgres_url: str, redis_server: RedisServer, engines: tuple[FakeEngine, FakeEngine]
) -> AsyncIterator[Gateways]:
    settings = Settings(
        database_url=postgres_url,
        admin_key=SecretStr(ADMIN_KEY),
        redis_url=SecretStr(redis_server.url),
        redis_timeout_s=2,  # machines of tests are busy
        log_format="json",
    )
    async with AsyncExitStack() as stack:
        operators = []
        for engine in engines:
            database = Database(postgres_url)
            stack.callback(database.close)
            app = create_app(settings, engine, database)
            stack.push_async_callback(app.state.gateway.reads.close)
            await stack.enter_async_context(LifespanManager(app, startup_timeout=60, shutdown_timeout=60))
            operators.append(Operator(await stack.enter_async_context(client_of(app))))
        yield operators[0], operators[1]


async def chat(operator: Operator, key: str) -> httpx.Response:
    return await operator.http.post("/v1/chat/completions", json=CHAT, headers=bearer(key))


async def new_key(operator: Operator, tenant: str, **quotas: int) -> str:
    await operator.make_tenant(tenant, **quotas)
    return str((await operator.make_key(tenant))["key"])


async def fallbacks(operator: Operator) -> float:
    text = (await operator.send("GET", "/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("tinylora_quota_fallbacks_total ")]
    return float(line.split()[1])


async def shared_again(gateways: Gateways) -> None:
    """Return when both count in Redis."""
    async with asyncio.timeout(60):
        for number in range(10_000):
            key = await new_key(gateways[0], f"trial-{number}", requests_per_minute=1)
            if [(await chat(gateway, key)).status_code for gateway in gateways] == [200, 429]:
                return
            await asyncio.sleep(0.2)


async def test_sixty_a_minute_are_sixty_over_both(gateways: Gateways) -> None:
    key = await new_key(gateways[0], "acme", requests_per_minute=60)
    began = time.monotonic()
    turns, at_once = cycle(gateways), asyncio.Semaphore(10)

    async def one(gateway: Operator) -> httpx.Response:
        async with at_once:
            return await chat(gateway, key)

    answers = await asyncio.gather(*(one(next(turns)) for _ in range(150)))
    refilled = ceil(time.monotonic() - began)
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() == {200, 429}
    assert 60 <= statuses[200] <= 60 + refilled
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in refused} == {"60"}
    assert [await fallbacks(gateway) for gateway in gateways] == [0, 0]


async def test_headers_and_limits_say_what_is_left_of_both(gateways: Gateways) -> None:
    # Of a token a minute nothing comes back while the test runs.
    key = await new_key(gateways[0], "acme", requests_per_minute=5, tokens_per_minute=20)
    left = [(await chat(gateway, key)).headers["x-ratelimit-remaining-requests"] for gateway in gateways * 2]
    assert left[0] == "4" and int(left[3]) < 4
    for gateway in gateways:
        limits = (await gateway.http.get("/v1/limits", headers=bearer(key))).json()["quotas"]
        assert {quota["limit"] for quota in limits} == {5, 20}
        assert all(quota["remaining"] < quota["limit"] for quota in limits)


async def test_open_requests_are_counted_over_both(gateways: Gateways, engines: tuple[FakeEngine, FakeEngine]) -> None:
    key = await new_key(gateways[0], "acme", max_concurrent_requests=1)
    engines[0].hold = asyncio.Event()
    running = asyncio.create_task(chat(gateways[0], key))
    async with asyncio.timeout(30):
        while not engines[0].received:
            await asyncio.sleep(0.01)
    refused = await chat(gateways[1], key)
    assert refused.status_code == 429 and "on open requests: limit 1, used 1" in refused.json()["error"]["message"]
    engines[0].hold.set()
    assert (await running).status_code == 200
    async with asyncio.timeout(30):
        while (await chat(gateways[1], key)).status_code != 200:
            await asyncio.sleep(0.01)


async def test_without_redis_requests_go_on_by_each_gateways_own_count(
    gateways: Gateways, redis_server: RedisServer, capfd: pytest.CaptureFixture[str]
) -> None:
    # One comes back in half a minute.
    key = await new_key(gateways[0], "acme", requests_per_minute=2)
    assert [(await chat(gateways[number], key)).status_code for number in (0, 1, 0, 1)] == [200, 200, 429, 429]
    redis_server.kill()
    # What each has admitted itself is known there: one of two.
    for gateway in gateways:
        assert [(await chat(gateway, key)).status_code for _ in range(2)] == [200, 429]
    assert [await fallbacks(gateway) for gateway in gateways] == [2, 2]
    redis_server.start()
    await shared_again(gateways)
    said = capfd.readouterr()
    assert (said.out + said.err).count(LOST) == 2
    assert (said.out + said.err).count(BACK) == 2


async def test_a_redis_that_hangs_is_waited_for_once(gateways: Gateways, redis_server: RedisServer) -> None:
    key = await new_key(gateways[0], "acme", requests_per_minute=1000)
    assert [(await chat(gateway, key)).status_code for gateway in gateways] == [200, 200]
    os.kill(redis_server.pid, signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(chat(gateway, key) for gateway in gateways * 10))
        assert {answer.status_code for answer in answers} == {200}
        assert [await fallbacks(gateway) for gateway in gateways] == [10, 10]
    finally:
        os.kill(redis_server.pid, signal.SIGCONT)
    await shared_again(gateways)
    # No answer that came too late is taken for another request's.
    other = await new_key(gateways[0], "globex", requests_per_minute=7)
    left = [(await chat(gateway, other)).headers["x-ratelimit-limit-requests"] for gateway in gateways * 5][:7]
    assert left == ["7"] * 7


async def test_redis_has_no_key_of_a_client(gateways: Gateways, redis_server: RedisServer) -> None:
    key = await new_key(gateways[0], "acme", requests_per_minute=10, tokens_per_minute=1000, max_concurrent_requests=3)
    await chat(gateways[0], key)
    with redis_server.client() as client:
        names = list(client.scan_iter())
        kept = [client.get(name) for name in names if client.type(name) == "string"]
        # Nothing stays for ever: -1 would be a key without an end, -2 is one that has just gone.
        ends = [client.pttl(name) for name in names]
    assert names and -1 not in ends and max(ends) <= 120_000
    assert {name.rpartition(":")[0] for name in names} - {"tinylora:{trial}"} == {"tinylora:{tenant-2}"}
    assert all(float(value) > time.time() - 60 for value in kept if value is not None)
    assert key not in repr(names)
