"""What many gateways ask of one PostgreSQL: measured for one statement, computed for a fleet.

    python -m benchmarks.scale --measure    writes benchmarks/scale.json: minutes
    python -m benchmarks.scale              writes the tables of docs/scale.md from it: a second

Measured is processor time, of PostgreSQL's processes and of the gateway's, for the reads that every request makes
(server/db/point_reads.py) and for finding a version that is not in memory. Processor time is nearly the same however
busy the machine is, which seconds are not. The database is the tests', over TCP, with twenty thousand adapters.

Computed, each with its sentence below: how many reads share a statement, how many versions are found in memory, and how
many cores of PostgreSQL a fleet keeps busy. Nothing here has been measured with more than one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy as sa

from benchmarks.registry import DURABLE, fill, name_of
from server.core.names import Reference
from server.core.principal import DEFAULT_TENANT_ID
from server.db.coalesced_reads import CONNECTIONS, MAX_BATCH
from server.db.connections import MAX_OVERFLOW, POOL_SIZE
from server.db.database import Database
from server.db.point_reads import open_point_reads
from server.db.tables import API_KEYS
from server.registry.store import Registry
from tests.postgres import running_server

FILE = Path(__file__).with_name("scale.json")
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
ADAPTERS = 20_000
KEYS = 1000
SIZES = (1, 8, 64)
ROWS = 20_000
# Between machines of one zone, there and back, and through a pooler.
ROUND_TRIP_S = 0.0005
# What PostgreSQL should be at most, for its peaks.
BUSY = 0.5
CACHED = 65_536
USED = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of a processor: of a statement of PostgreSQL's as `fixed + each * rows`, and of the gateway's for
    each row of statements with one."""

    fixed_us: float
    each_us: float
    gateway_us: float

    def statement_s(self, rows: float) -> float:
        """Seconds of a processor for a statement of so many rows."""
        return (self.fixed_us + self.each_us * rows) / 1e6


@dataclass(frozen=True, slots=True)
class Measured:
    """On one machine. `load` is of finding a version that is not in memory, besides the read of its adapter."""

    day: str
    machine: str
    key: Cost
    adapter: Cost
    load: Cost

    @classmethod
    def stored(cls) -> Measured:
        found = json.loads(FILE.read_text())
        costs = {name: Cost(**found.pop(name)) for name in ("key", "adapter", "load")}
        return cls(**found, **costs)


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


FLEETS: Sequence[tuple[int, float]] = ((1, 20), (10, 20), (100, 20), (1000, 5), (1000, 20), (1000, 50))


def tables(measured: Measured) -> str:
    """Markdown, for docs/scale.md."""
    lines = [
        f"Processor time, measured on {measured.day} ({measured.machine}):",
        "",
        "| | of PostgreSQL, one row | 64 rows in a statement, each | of the gateway, each |",
        "|---|--:|--:|--:|",
    ]
    for label, cost in (
        ("the key and its tenant", measured.key),
        ("the adapter's revision", measured.adapter),
        ("a version that is not in memory", measured.load),
    ):
        one, many = 1e6 * cost.statement_s(1), 1e6 * cost.statement_s(64) / 64
        shown = "" if cost is measured.load else f"{many:.0f} µs"
        lines.append(f"| {label} | {one:.0f} µs | {shown} | {cost.gateway_us:.0f} µs |")
    lines += [
        "",
        "| gateways | requests/s of each | of all | statements/s | cores that they keep busy | cores to have "
        "| both reads of a request | connections |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    hits = hit_ratio(CACHED, USED)
    for gateways, rate in FLEETS:
        cores = 1
        while (found := load_of(measured, gateways, rate, cores, hits)).cores > BUSY * cores:
            cores *= 2
        lines.append(
            f"| {gateways:,} | {rate:g} | {gateways * rate:,.0f} | {found.statements:,.0f} | {found.cores:.2f} "
            f"| {cores} | {2000 * found.read_s:.1f} ms | {connections(gateways):,} |"
        )
    lines += [
        "",
        f"Of requests for {USED:,} adapters, {hits:.0%} find theirs among the {CACHED:,} in a gateway's memory.",
    ]
    return "\n".join(lines)


def with_tables(page: str, new: str) -> str:
    """`page` with `new` between its markers."""
    marked = re.compile(r"(<!-- benchmarks/scale.py -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{new}\n\n{found[2]}", page)


async def measure(url: str, postmaster: int, rows: int = ROWS, adapters: int = ADAPTERS) -> Measured:
    """On the PostgreSQL at `url`, whose first process is `postmaster`."""
    fill(url, adapters)
    database = Database(url)
    digests = [f"{number:064x}" for number in range(KEYS)]
    with database.write() as connection:
        connection.execute(sa.insert(API_KEYS), [_key(number, digest) for number, digest in enumerate(digests)])
        connection.execute(sa.text("ANALYZE"))
    reads = open_point_reads(database)
    names = itertools.cycle(random.Random(0).sample([name_of(number) for number in range(adapters)], adapters))
    keys = itertools.cycle(digests)
    registry = Registry(database, reads, cache_size=1)
    found = {
        "key": await _cost(postmaster, SIZES, rows, lambda: reads.key(next(keys), month=0)),
        "adapter": await _cost(postmaster, SIZES, rows, lambda: reads.adapter(DEFAULT_TENANT_ID, next(names))),
        "load": await _cost(
            postmaster, (1,), rows // 10, lambda: registry.resolve(DEFAULT_TENANT_ID, Reference(next(names)))
        ),
    }
    await reads.close()
    database.close()
    alone, read = found["load"], found["adapter"]
    load = Cost(
        fixed_us=round(max(alone.fixed_us - 1e6 * read.statement_s(1), 0.0), 2),
        each_us=0.0,
        gateway_us=round(max(alone.gateway_us - read.gateway_us, 0.0), 2),
    )
    return Measured(date.today().isoformat(), _machine(), found["key"], found["adapter"], load)


async def _cost(postmaster: int, sizes: Iterable[int], rows: int, read: Callable[[], Awaitable[object]]) -> Cost:
    per_statement: dict[int, float] = {}
    own: dict[int, float] = {}
    for size in sizes:
        await asyncio.gather(*(read() for _ in range(size)))
        before, own_before = _cpu_of(postmaster), time.process_time()
        for _ in range(max(rows // size, 1)):
            found = await asyncio.gather(*(read() for _ in range(size)))
            assert None not in found
        count = max(rows // size, 1)
        per_statement[size] = 1e6 * (_cpu_of(postmaster) - before) / count
        own[size] = 1e6 * (time.process_time() - own_before) / (count * size)
    smallest, largest = min(per_statement), max(per_statement)
    each = (
        0.0
        if smallest == largest
        else max(per_statement[largest] - per_statement[smallest], 0.0) / (largest - smallest)
    )
    return Cost(round(per_statement[smallest] - each * smallest, 2), round(each, 2), round(own[smallest], 2))


def _cpu_of(postmaster: int) -> float:
    """Seconds of a processor that the server's processes have taken."""
    server = psutil.Process(postmaster)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def _key(number: int, digest: str) -> Mapping[str, object]:
    named = {"id": f"key_{number:020x}", "name": f"k{number}", "hint": f"{number}", "hash": digest}
    return {**named, "tenant_id": DEFAULT_TENANT_ID, "scopes": "infer", "created_at": 0}


def _machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure first, and keep it in benchmarks/scale.json")
    if parser.parse_args().measure:
        with running_server(**DURABLE) as server:
            measured = asyncio.run(measure(server.url(server.new_database()), server.process_id))
        FILE.write_text(json.dumps(asdict(measured), indent=2) + "\n")
    new = tables(Measured.stored())
    PAGE.write_text(with_tables(PAGE.read_text(), new))
    print(new)


if __name__ == "__main__":
    main()
