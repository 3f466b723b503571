"""What the sums of docs/scale.md rest on: reads that share statements, and versions that are in memory."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest

from benchmarks.fleet import hit_ratio, simulate
from benchmarks.read_costs import Cost


@pytest.mark.parametrize("size", [10, 100, 500])
def test_the_share_that_is_in_memory_is_that_of_a_real_cache(size: int) -> None:
    used, draw = 2000, random.Random(1)
    kept = lru_cache(size)(lambda number: number)
    asked = draw.choices(range(used), weights=[1 / rank for rank in range(1, used + 1)], k=60_000)
    for number in asked[:20_000]:
        kept(number)
    before = kept.cache_info().hits
    for number in asked[20_000:]:
        kept(number)
    assert hit_ratio(size, used) == pytest.approx((kept.cache_info().hits - before) / 40_000, abs=0.02)


def test_reads_share_statements_only_where_they_wait() -> None:
    cost = Cost(fixed_us=100, each_us=10, gateway_us=50)
    idle = simulate(1, (cost, cost))
    assert idle.statements == pytest.approx(2, rel=0.3)
    assert idle.read_s == pytest.approx(0.00061, rel=0.01)
    busy = simulate(20_000, (cost, cost), seconds=2)
    # Two connections, and each statement takes half a millisecond at least.
    assert busy.statements < 4000
    assert busy.cpu < 0.7 * 40_000 * cost.statement_s(1)
