"""A request passes all quotas that concern it or is charged to none, and idle quotas are forgotten."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.errors import TooManyRequests
from server.core.principal import Limits, Principal, Tenant
from server.limits.quotas import Quotas, Ticket
from tests.server.limits.test_token_bucket import Clock

UNLIMITED = Limits()


def principal(tenant: Limits = UNLIMITED, key: Limits = UNLIMITED, number: int = 7, admin: bool = False) -> Principal:
    scopes = frozenset({"admin"} if admin else {"infer"})
    return Principal(Tenant(number, f"acme{number}", limits=tenant), f"key_{number}", scopes, key)  # type: ignore[arg-type]


def refused(quotas: Quotas, who: Principal, tokens: int = 10) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        quotas.admit(who, tokens)
    return caught.value


def test_requests_beyond_the_minutes_quota_wait_for_their_turn() -> None:
    clock = Clock()
    quotas, who = Quotas(clock), principal(Limits(requests_per_minute=30))
    for _ in range(30):
        quotas.admit(who, 10)
    error = refused(quotas, who)
    assert (error.type, error.code, error.reason) == ("requests", "rate_limit_exceeded", "requests_per_minute")
    assert error.message == (
        "Rate limit reached for tenant acme7 on requests per minute: limit 30, used 30, requested 1. Try again in 2s."
    )
    assert error.headers and error.headers["retry-after"] == "2"
    clock.now = 2.0
    quotas.admit(who, 10)
    refused(quotas, who)


def test_the_longest_wait_of_tenant_and_key_is_announced() -> None:
    quotas = Quotas(Clock())
    who = principal(Limits(requests_per_minute=60), Limits(requests_per_minute=2, tokens_per_minute=1000))
    quotas.admit(who, 1000)
    error = refused(quotas, who, 500)
    assert "key key_7 on tokens per minute: limit 1000, used 1000, requested 500. Try again in 30s." in error.message
    assert error.type == "tokens"


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 300), st.booleans()), max_size=40))
def test_a_refused_request_leaves_no_trace(steps: list[tuple[float, int, bool]]) -> None:
    clock = Clock()
    quotas, only_admitted = Quotas(clock), Quotas(clock)
    who = principal(Limits(5, 400, 4), Limits(3, 500, 3))
    tickets: list[tuple[Ticket, Ticket]] = []
    for pause, tokens, ends in steps:
        clock.now += pause
        if ends and tickets:
            for ticket in tickets.pop(0):
                ticket.close(tokens // 2)
        try:
            ticket = quotas.admit(who, tokens)
        except TooManyRequests:
            continue
        tickets.append((ticket, only_admitted.admit(who, tokens)))
        assert ticket.headers() == tickets[-1][1].headers()
    assert len(tickets) <= 3


def test_tokens_are_settled_when_the_request_has_ended() -> None:
    quotas, who = Quotas(Clock()), principal(Limits(tokens_per_minute=1000))
    ticket = quotas.admit(who, 900)
    assert refused(quotas, who, 200).reason == "tokens_per_minute"
    ticket.close(100)
    quotas.admit(who, 800).close(2500)  # longer than estimated: a debt
    error = refused(quotas, who, 1)
    assert "limit 1000, used 2600, requested 1" in error.message
    assert error.headers and error.headers["x-ratelimit-remaining-tokens"] == "0"
    assert error.headers["retry-after"] == str(round(1601 / 1000 * 60 + 0.5))


def test_an_answer_of_unknown_length_keeps_its_estimate_and_a_cancelled_request_costs_nothing() -> None:
    quotas, who = Quotas(Clock()), principal(Limits(requests_per_minute=10, tokens_per_minute=1000))
    quotas.admit(who, 400).close(None)
    quotas.admit(who, 400).cancel()
    assert quotas.admit(who, 100).headers() == {
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
def test_what_can_never_fit_is_refused_without_a_time_to_try_again(who: Principal, tokens: int, counted: str) -> None:
    error = refused(Quotas(Clock()), who, tokens)
    assert (error.type, error.reason) == (counted, "never_fits")
    assert error.message.startswith("The request can never be served: ")
    assert error.headers and error.headers["x-should-retry"] == "false" and "retry-after" not in error.headers


def test_open_requests_are_limited_by_tenant_and_by_key() -> None:
    quotas = Quotas(Clock())
    one, other = (
        Principal(Tenant(7, "acme", limits=Limits(concurrent_requests=3)), key, frozenset({"infer"}), limits)
        for key, limits in (("key_1", Limits(concurrent_requests=2)), ("key_2", Limits()))
    )
    first, _ = quotas.admit(one, 1), quotas.admit(one, 1)
    assert "key key_1 on open requests: limit 2, used 2" in refused(quotas, one).message
    quotas.admit(other, 1)
    assert "tenant acme on open requests: limit 3, used 3" in refused(quotas, other).message
    first.close(1)
    quotas.admit(one, 1)


def test_tenants_do_not_share_quotas_and_operators_have_none() -> None:
    quotas, limits = Quotas(Clock()), Limits(1, 10, 1)
    quotas.admit(principal(limits, number=1), 10)
    quotas.admit(principal(limits, number=2), 10)
    for _ in range(3):
        assert quotas.admit(principal(limits, number=1, admin=True), 10).headers() == {}


def test_tenants_out_of_use_are_forgotten() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    for number in range(10_000):
        clock.now += 1.0
        quotas.admit(principal(Limits(60, 1000, 5), Limits(60, 1000, 5), number=number), 100).close(50)
    assert len(quotas.buckets) < 100
    assert quotas.open_requests == 0
