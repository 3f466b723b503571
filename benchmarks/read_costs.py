"""Processor time of the reads that every request makes, of PostgreSQL's processes and of the gateway's.

They are those of server/db/point_reads.py; beside them stands finding a version that is not in memory. Processor time
is nearly the same however busy the machine is, which seconds are not. The database is the tests', over TCP, with twenty
thousand adapters.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import sqlalchemy as sa

from benchmarks.registry import fill, name_of
from server.core.names import Reference
from server.core.principal import DEFAULT_TENANT_ID
from server.db.database import Database
from server.db.point_reads import open_point_reads
from server.db.tables import API_KEYS
from server.registry.store import Registry

FILE = Path(__file__).with_name("scale.json")
ADAPTERS = 20_000
KEYS = 1000
SIZES = (1, 8, 64)
ROWS = 20_000


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
