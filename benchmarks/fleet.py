"""What a fleet of gateways asks of one PostgreSQL, computed from what a read costs (read_costs.py).

That is how many reads share a statement, how many versions are found in memory, and how many cores are kept busy.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.read_costs import Cost, Measured
from server.db.coalesced_reads import CONNECTIONS, MAX_BATCH
from server.db.connections import MAX_OVERFLOW, POOL_SIZE

# Between machines of one zone, there and back, and through a pooler.
ROUND_TRIP_S = 0.0005


@dataclass(frozen=True, slots=True)
class Load:
    """What a fleet asks of one PostgreSQL: statements a second, how many of its cores they keep busy, and how long a
    read takes, in seconds."""

    statements: float
    cores: float
    read_s: float


@dataclass(frozen=True, slots=True)
class Simulated:
    """Of one gateway: statements a second, seconds of PostgreSQL's processors for them a second, and of one read."""

    statements: float
    cpu: float
    read_s: float


def simulate(
    rate: float, costs: Sequence[Cost], slower: float = 1.0, seconds: float = 60.0, seed: int = 0
) -> Simulated:
    """A gateway with `rate` reads a second of each kind in `costs`, at random, as CoalescedReads does them: whichever
    connection is free takes all that wait of one kind. A statement takes its processor time `slower` times."""
    draw, free_at = random.Random(seed), [0.0] * CONNECTIONS
    waiting: dict[int, list[float]] = {}
    statements, read, cpu, took, now = 0, 0, 0.0, 0.0, draw.expovariate(rate * len(costs))
    while now < seconds:
        connection = min(range(CONNECTIONS), key=free_at.__getitem__)
        first = min((at[0] for at in waiting.values()), default=now)
        start = max(first, free_at[connection])
        while now <= start:
            waiting.setdefault(draw.randrange(len(costs)), []).append(now)
            now += draw.expovariate(rate * len(costs))
        kind = next(iter(waiting))
        asked, rest = waiting[kind][:MAX_BATCH], waiting.pop(kind)[MAX_BATCH:]
        if rest:
            waiting[kind] = rest
        used = costs[kind].statement_s(len(asked))
        free_at[connection] = start + ROUND_TRIP_S + slower * used
        statements, read, cpu = statements + 1, read + len(asked), cpu + used
        took += sum(free_at[connection] - at for at in asked)
    return Simulated(statements / seconds, cpu / seconds, took / max(read, 1))


def hit_ratio(size: int, used: int) -> float:
    """The share of requests whose version is among the last `size` that were used, where the i-th most popular of
    `used` adapters is asked for 1/i as often as the first. Che's approximation (Che, Tung, Wang 2002)."""
    if size >= used:
        return 1.0
    weights = 1 / np.arange(1, used + 1)
    low, high = 0.0, 1.0
    while _kept(weights, high) < size:
        low, high = high, 2 * high
    while high - low > high / 10_000:
        middle = (low + high) / 2
        low, high = (middle, high) if _kept(weights, middle) < size else (low, middle)
    return float((weights * -np.expm1(-weights * high)).sum() / weights.sum())


def _kept(weights: np.ndarray, after: float) -> float:
    """How many different adapters are asked for meanwhile."""
    return float(-np.expm1(-weights * after).sum())


def load_of(measured: Measured, gateways: int, rate: float, cores: int, hits: float) -> Load:
    """Of `gateways` with `rate` requests a second each, on a PostgreSQL with so many cores.

    A busy PostgreSQL answers later (by 1 / (1 - the busy share), as one queue for all), and then more reads share a
    statement; so this is repeated until it no longer changes.
    """
    busy, misses = 0.0, rate * (1 - hits)
    for _ in range(20):
        one = simulate(rate, (measured.key, measured.adapter), slower=1 / (1 - min(busy, 0.95)))
        used = gateways * (one.cpu + misses * measured.load.statement_s(1))
        before, busy = busy, (busy + used / cores) / 2
        if abs(busy - before) < 0.001:
            break
    return Load(gateways * (one.statements + misses), used, one.read_s)


def connections(gateways: int) -> int:
    """That gateways may open: for reads, and for writes and reports at most."""
    return gateways * (CONNECTIONS + POOL_SIZE + MAX_OVERFLOW)
