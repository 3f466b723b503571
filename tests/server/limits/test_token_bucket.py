"""Buckets against a plain count of what was taken and what time gave back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.limits.token_bucket import Bucket, TokenBuckets

STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), max_size=40)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(derandomize=True)
@given(STEPS)
def test_level_is_what_a_leaking_counter_says(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    buckets, bucket, level = TokenBuckets(clock), Bucket("a", 60), 60.0
    for pause, amount in steps:
        clock.now += pause
        level = min(60.0, level + pause * 60 / 60)
        assert buckets.level(bucket) == pytest.approx(level, abs=1e-6)
        if buckets.seconds_until(bucket, amount) == 0:
            buckets.take(bucket, amount)
            level -= amount


@settings(derandomize=True)
@given(STEPS, st.integers(1, 100))
def test_no_more_passes_than_a_full_bucket_and_what_time_gave_back(
    steps: list[tuple[float, int]], per_minute: int
) -> None:
    clock = Clock()
    buckets, bucket, passed = TokenBuckets(clock), Bucket("a", per_minute), 0
    for pause, amount in steps:
        clock.now += pause
        if amount <= per_minute and buckets.seconds_until(bucket, amount) == 0:
            buckets.take(bucket, amount)
            passed += amount
    assert passed <= per_minute * (1 + clock.now / 60) + 1e-3


@settings(derandomize=True)
@given(st.integers(1, 1000), st.data())
def test_after_the_announced_wait_the_amount_is_there_and_not_before(per_minute: int, data: st.DataObject) -> None:
    clock = Clock()
    buckets, bucket = TokenBuckets(clock), Bucket("a", per_minute)
    buckets.take(bucket, data.draw(st.integers(0, 3 * per_minute)))
    amount = data.draw(st.integers(1, per_minute))
    wait = buckets.seconds_until(bucket, amount)
    clock.now = wait * 0.99
    assert wait == 0 or buckets.seconds_until(bucket, amount) > 0
    clock.now = wait
    assert buckets.seconds_until(bucket, amount) == 0


def test_what_is_given_back_is_there_again_and_never_more_than_the_quota() -> None:
    buckets, bucket = TokenBuckets(Clock()), Bucket("a", 100)
    buckets.take(bucket, 80)
    buckets.take(bucket, -50)
    assert buckets.level(bucket) == pytest.approx(70)
    buckets.take(bucket, -500)
    assert buckets.level(bucket) == 100
    assert len(buckets) == 0


def test_debt_is_paid_before_anything_passes() -> None:
    clock = Clock()
    buckets, bucket = TokenBuckets(clock), Bucket("a", 60)
    buckets.take(bucket, 180)
    assert buckets.level(bucket) == pytest.approx(-120)
    assert buckets.seconds_until(bucket, 1) == pytest.approx(121)


def test_a_raised_quota_keeps_the_share_that_is_left() -> None:
    buckets = TokenBuckets(Clock())
    buckets.take(Bucket("a", 10), 5)
    assert buckets.level(Bucket("a", 1000)) == pytest.approx(500)


def test_keys_out_of_use_are_forgotten_even_behind_one_in_long_debt() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock)
    buckets.take(Bucket("debtor", 1), 1_000_000)
    most = 0
    for tenant in range(20_000):  # each comes once; a hundred of them at a time are not full again
        clock.now += 0.01
        buckets.take(Bucket(tenant, 60), 1)
        most = max(most, len(buckets))
    assert most < 300
