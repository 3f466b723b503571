"""A request passes all quotas that concern it or is charged to none, whether one process counts or Redis does, and idle
quotas are forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha1
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from server.core.errors import TooManyRequests
from server.core.principal import Limits, Principal, Tenant
from server.limits.quota_store import Hold, ProcessQuotas, QuotaStore
from server.limits.quotas import Quotas, Ticket
from server.limits.redis_quotas import LEASE_S, RedisQuotas
from server.limits.redis_scripts import GIVE_BACK, RENEW, TAKE
from tests.redis_server import RedisServer, find_program
from tests.server.limits.test_token_bucket import Clock

UNLIMITED = Limits()
TODAY = 1_900_000_000.0


def principal(tenant: Limits = UNLIMITED, key: Limits = UNLIMITED, number: int = 7, admin: bool = False) -> Principal:
    scopes = frozenset({"admin"} if admin else {"infer"})
    return Principal(Tenant(number, f"acme{number}", limits=tenant), f"key_{number}", scopes, key)  # type: ignore[arg-type]


def redis_quotas(
    server: RedisServer, clock: Clock, timeout_s: float = 5, fallbacks: Counter | None = None
) -> RedisQuotas:
    return RedisQuotas(
        server.url,
        prefix="test",
        timeout_s=timeout_s,
        fallbacks=fallbacks or Counter("f", "", registry=None),
        clock=lambda: TODAY + clock.now,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisServer]:
    server = RedisServer(find_program(), cluster=True)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["process", "redis"])
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[QuotaStore]:
    """Both kinds, by a clock that stands still."""
    if request.param == "process":
        yield ProcessQuotas(clock)
        return
    shared = redis_quotas(request.getfixturevalue("redis_server"), clock)
    async with shared.running():
        yield shared


@pytest.fixture
def quotas(store: QuotaStore) -> Quotas:
    return Quotas(store)


async def settled(store: QuotaStore) -> None:
    """What was given back is there."""
    if isinstance(store, RedisQuotas):
        await store.settled()


async def refused(quotas: Quotas, who: Principal, tokens: int = 10) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        await quotas.admit(who, tokens)
    return caught.value


async def test_requests_beyond_the_minutes_quota_wait_for_their_turn(quotas: Quotas, clock: Clock) -> None:
    who = principal(Limits(requests_per_minute=30))
    for _ in range(30):
        await quotas.admit(who, 10)
    error = await refused(quotas, who)
    assert (error.type, error.code, error.reason) == ("requests", "rate_limit_exceeded", "requests_per_minute")
    assert error.message == (
        "Rate limit reached for tenant acme7 on requests per minute: limit 30, used 30, requested 1. Try again in 2s."
    )
    assert error.headers and error.headers["retry-after"] == "2"
    clock.now = 2.0
    await quotas.admit(who, 10)
    await refused(quotas, who)


async def test_the_longest_wait_of_tenant_and_key_is_announced(quotas: Quotas) -> None:
    who = principal(Limits(requests_per_minute=60), Limits(requests_per_minute=2, tokens_per_minute=1000))
    await quotas.admit(who, 1000)
    error = await refused(quotas, who, 500)
    assert "key key_7 on tokens per minute: limit 1000, used 1000, requested 500. Try again in 30s." in error.message
    assert error.type == "tokens"


STEPS = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300), st.booleans()), max_size=40)


@settings(derandomize=True, deadline=None)
@given(STEPS)
def test_a_refused_request_leaves_no_trace(steps: list[tuple[float, int, bool]]) -> None:
    clock = Clock()
    quotas, only_admitted = Quotas(ProcessQuotas(clock)), Quotas(ProcessQuotas(clock))
    who = principal(Limits(5, 400, 4), Limits(3, 500, 3))
    tickets: list[tuple[Ticket, Ticket]] = []

    async def run() -> None:
        for pause, tokens, ends in steps:
            clock.now += pause
            if ends and tickets:
                for ticket in tickets.pop(0):
                    ticket.close(tokens // 2)
            try:
                ticket = await quotas.admit(who, tokens)
            except TooManyRequests:
                continue
            tickets.append((ticket, await only_admitted.admit(who, tokens)))
            assert ticket.headers() == tickets[-1][1].headers()
        assert len(tickets) <= 3

    asyncio.run(run())


@settings(
    derandomize=True,
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
def test_redis_counts_as_one_process_does(redis_server: RedisServer, steps: list[tuple[float, int, bool]]) -> None:
    with redis_server.client() as client:
        client.flushall()

    async def run() -> None:
        clock = Clock()
        who = principal(Limits(5, 400, 4), Limits(3, 500, 3))
        shared = redis_quotas(redis_server, clock)
        async with shared.running():
            stores: list[QuotaStore] = [ProcessQuotas(clock), shared]
            histories: list[list[object]] = [[], []]
            for quotas, history, store in zip(map(Quotas, stores), histories, stores, strict=True):
                clock.now, open_tickets = 0.0, []
                for pause, tokens, ends in steps:
                    clock.now += pause
                    if ends and open_tickets:
                        open_tickets.pop(0).close(tokens // 2)
                        await settled(store)
                    try:
                        open_tickets.append(await quotas.admit(who, tokens))
                        history.append(open_tickets[-1].headers())
                    except TooManyRequests as error:
                        history.append((error.message, error.headers))
            assert histories[0] == histories[1]

    asyncio.run(run())


async def test_an_answer_that_grows_beyond_its_estimate_is_charged_at_once(quotas: Quotas, store: QuotaStore) -> None:
    who = principal(Limits(tokens_per_minute=1000, concurrent_requests=1))
    ticket = await quotas.admit(who, 100)
    lefts = []
    for used in (50, 100, 101, 700):
        ticket.used(used)
        await settled(store)
        lefts.append(round((await quotas.levels(who)).left(0)))
    assert lefts[:2] == [900, 900] and 700 <= lefts[2] < 900 and 200 <= lefts[3] <= 300
    assert (await refused(quotas, who)).reason == "concurrent_requests", "it is still open"
    ticket.close(710)
    ticket.used(900)  # told too late
    await settled(store)
    assert round((await quotas.levels(who)).left(0)) == 290


async def test_tokens_are_settled_when_the_request_has_ended(quotas: Quotas, store: QuotaStore) -> None:
    who = principal(Limits(tokens_per_minute=1000))
    ticket = await quotas.admit(who, 900)
    assert (await refused(quotas, who, 200)).reason == "tokens_per_minute"
    ticket.close(100)
    await settled(store)
    (await quotas.admit(who, 800)).close(2500)  # longer than estimated: a debt
    await settled(store)
    error = await refused(quotas, who, 1)
    assert "limit 1000, used 2600, requested 1" in error.message
    assert error.headers and error.headers["x-ratelimit-remaining-tokens"] == "0"
    assert error.headers["retry-after"] == str(round(1601 / 1000 * 60 + 0.5))


async def test_an_answer_of_unknown_length_keeps_its_estimate_and_a_cancelled_request_costs_nothing(
    quotas: Quotas, store: QuotaStore
) -> None:
    who = principal(Limits(requests_per_minute=10, tokens_per_minute=1000))
    (await quotas.admit(who, 400)).close(None)
    (await quotas.admit(who, 400)).cancel()
    await settled(store)
    assert (await quotas.admit(who, 100)).headers() == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-reset-requests": "12s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "30s",
    }


@pytest.mark.parametrize(
    ("who", "tokens", "counted"),
    [
        (principal(Limits(tokens_per_minute=100)), 101, "tokens"),
        (principal(key=Limits(tokens_per_minute=0)), 1, "tokens"),
        (principal(Limits(requests_per_minute=0)), 1, "requests"),
    ],
)
async def test_what_can_never_fit_is_refused_without_a_time_to_try_again(
    quotas: Quotas, who: Principal, tokens: int, counted: str
) -> None:
    error = await refused(quotas, who, tokens)
    assert (error.type, error.reason) == (counted, "never_fits")
    assert error.message.startswith("The request can never be served: ")
    assert error.headers and error.headers["x-should-retry"] == "false" and "retry-after" not in error.headers


async def test_open_requests_are_limited_by_tenant_and_by_key(quotas: Quotas, store: QuotaStore) -> None:
    one, other = (
        Principal(Tenant(7, "acme", limits=Limits(concurrent_requests=3)), key, frozenset({"infer"}), limits)
        for key, limits in (("key_1", Limits(concurrent_requests=2)), ("key_2", Limits()))
    )
    first, _ = await quotas.admit(one, 1), await quotas.admit(one, 1)
    assert "key key_1 on open requests: limit 2, used 2" in (await refused(quotas, one)).message
    await quotas.admit(other, 1)
    assert "tenant acme on open requests: limit 3, used 3" in (await refused(quotas, other)).message
    first.close(1)
    await settled(store)
    await quotas.admit(one, 1)


async def test_open_requests_of_a_gateway_that_was_killed_end_with_their_lease(
    redis_server: RedisServer, clock: Clock
) -> None:
    who = principal(Limits(concurrent_requests=1))
    killed, other = redis_quotas(redis_server, clock), redis_quotas(redis_server, clock)
    async with other.running():
        async with killed.running():
            await Quotas(killed).admit(who, 1)
        clock.now = LEASE_S - 1
        assert (await refused(Quotas(other), who)).reason == "concurrent_requests"
        clock.now = LEASE_S + 1
        await Quotas(other).admit(who, 1)


async def test_tenants_do_not_share_quotas_and_operators_have_none(quotas: Quotas) -> None:
    limits = Limits(1, 10, 1)
    await quotas.admit(principal(limits, number=1), 10)
    await quotas.admit(principal(limits, number=2), 10)
    for _ in range(3):
        assert (await quotas.admit(principal(limits, number=1, admin=True), 10)).headers() == {}


async def test_priority_is_for_those_who_were_given_it_and_so_often(quotas: Quotas, clock: Clock) -> None:
    who = principal(Limits(priority_requests_per_minute=2))
    assert [await quotas.grants_priority(who) for _ in range(3)] == [True, True, False]
    clock.now = 30.0
    assert [await quotas.grants_priority(who) for _ in range(2)] == [True, False]
    assert not await quotas.grants_priority(principal())
    assert await quotas.grants_priority(principal(admin=True))


async def test_tenants_out_of_use_are_forgotten(clock: Clock) -> None:
    store = ProcessQuotas(clock)
    quotas = Quotas(store)
    for number in range(10_000):
        clock.now += 1.0
        (await quotas.admit(principal(Limits(60, 1000, 5), Limits(60, 1000, 5), number=number), 100)).close(50)
    assert len(store.buckets) < 100
    assert not store.open


async def test_the_background_leaves_half_of_a_quota_and_counts_for_no_open_requests(
    quotas: Quotas, store: QuotaStore
) -> None:
    who = principal(Limits(requests_per_minute=10, concurrent_requests=1))
    for _ in range(5):
        await quotas.admit(who, 10, background=True)
    with pytest.raises(TooManyRequests, match="Try again in 6s"):
        await quotas.admit(who, 10, background=True)
    for _ in range(5):
        (await quotas.admit(who, 10)).close(None)
        await settled(store)
    await refused(quotas, who)


async def test_a_request_of_the_background_that_takes_the_whole_quota_is_served_when_it_is_full(
    quotas: Quotas, clock: Clock
) -> None:
    who = principal(Limits(tokens_per_minute=100))
    await quotas.admit(who, 10)
    with pytest.raises(TooManyRequests, match="Try again in 6s"):
        await quotas.admit(who, 100, background=True)
    clock.now += 6.0
    await quotas.admit(who, 100, background=True)


async def test_no_request_stays_open_in_a_redis_that_did_not_answer(redis_server: RedisServer, clock: Clock) -> None:
    shared = redis_quotas(redis_server, clock, timeout_s=1)
    holds = {name: [Hold(name, 1)] for name in ("ended", "cancelled", "unanswered")}
    async with shared.running():
        ended = await shared.take([], holds["ended"])
        assert ended.shared
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            cancelled = asyncio.create_task(shared.take([], holds["cancelled"]))
            asyncio.get_running_loop().call_later(0.1, cancelled.cancel)
            unanswered = await shared.take([], holds["unanswered"])
            assert cancelled.cancelled() and unanswered.granted and not unanswered.shared
            for taken in (ended, unanswered):
                shared.give_back(taken, [])
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        async with asyncio.timeout(60):
            while not (await shared.take([], [])).shared:
                await asyncio.sleep(0.05)
        with redis_server.client() as client:
            assert [client.zcard(f"test:{{{name}}}:") for name in holds] == [0, 0, 0]


class LateScript:
    """A way to Redis on which calls of a script wait until they may pass."""

    def __init__(self, port: int, script: str) -> None:
        self._port = port
        self._called = sha1(script.encode()).hexdigest().encode()
        self.waits, self.may_pass, self.passed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._port)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._pass_on(reader, redis_writer))
            both.create_task(self._pass_on(redis_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if is_late := self._called in data:
                self.waits.set()
                await self.may_pass.wait()
            writer.write(data)
            if is_late:
                self.passed.set()
        writer.close()


@asynccontextmanager
async def late_redis(server: RedisServer, clock: Clock, script: str) -> AsyncIterator[tuple[RedisQuotas, LateScript]]:
    """Quotas of a Redis that knows the scripts, behind a way on which one is late."""
    with server.client() as client:
        client.flushall()
        for known in (TAKE, GIVE_BACK, RENEW):
            client.script_load(known)
    late = LateScript(port := urlsplit(server.url).port or 0, script)
    async with await asyncio.start_server(late, "127.0.0.1", 0) as way, asyncio.timeout(30):
        through = server.url.replace(str(port), str(way.sockets[0].getsockname()[1]))
        counter = Counter("f", "", registry=None)
        yield (
            RedisQuotas(
                through, prefix="late", timeout_s=20, fallbacks=counter, clock=lambda: TODAY + clock.now, renew_s=0.1
            ),
            late,
        )


def open_in(server: RedisServer) -> int:
    """How many requests late_redis has open."""
    with server.client() as client:
        return int(client.zcard("late:{open}:"))


async def test_a_request_that_ends_while_it_is_renewed_stays_ended(redis_server: RedisServer, clock: Clock) -> None:
    async with late_redis(redis_server, clock, RENEW) as (shared, late), shared.running():
        taken = await shared.take([], [Hold("open", 1)])
        await late.waits.wait()
        shared.give_back(taken, [])
        await shared.settled()
        assert open_in(redis_server) == 0
        late.may_pass.set()
        await late.passed.wait()
        await asyncio.sleep(0.1)
        while open_in(redis_server):
            await asyncio.sleep(0.02)


async def test_a_request_that_ends_with_its_gateway_while_it_is_renewed_stays_ended(
    redis_server: RedisServer, clock: Clock
) -> None:
    async with late_redis(redis_server, clock, RENEW) as (shared, late):
        async with shared.running():
            taken = await shared.take([], [Hold("open", 1)])
            await late.waits.wait()
            shared.give_back(taken, [])
            asyncio.get_running_loop().call_later(0.2, late.may_pass.set)
        await late.passed.wait()
        await asyncio.sleep(0.1)
        assert open_in(redis_server) == 0


async def test_a_request_that_is_cancelled_while_it_is_admitted_stays_ended(
    redis_server: RedisServer, clock: Clock
) -> None:
    async with late_redis(redis_server, clock, TAKE) as (shared, late):
        taking = asyncio.create_task(shared.take([], [Hold("open", 1)]))
        await late.waits.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await asyncio.sleep(0.1)
        late.may_pass.set()
        await late.passed.wait()
        await asyncio.sleep(0.1)
        async with shared.running():
            await shared.settled()
            assert open_in(redis_server) == 0
            assert (await shared.take([], [Hold("open", 1)])).granted


async def test_a_redis_in_cluster_mode_counts_all_quotas_of_a_request(redis_cluster: RedisServer, clock: Clock) -> None:
    registry = CollectorRegistry()
    counted = redis_quotas(redis_cluster, clock, fallbacks=Counter("fallbacks", "", registry=registry))
    limits = Limits(requests_per_minute=2, tokens_per_minute=100, concurrent_requests=2)
    async with counted.running():
        quotas = Quotas(counted)
        tickets = [await quotas.admit(principal(limits, limits), 10) for _ in range(2)]
        await refused(quotas, principal(limits, limits))
        for ticket in tickets:
            ticket.close(10)
        await counted.settled()
    assert registry.get_sample_value("fallbacks_total") == 0
