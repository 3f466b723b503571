"""A registry of a million adapters, in SQLite and in PostgreSQL, against an empty one.

Figures of a gateway are medians of fresh processes, of the two databases in turn; ratios are the median over rounds,
with the lowest and the highest. Measured are the time from opening the database to the first answer over HTTP (the
engine is a fake one), the time of `Registry.resolve` one after the other, and the most memory it had. Cold are names
that the process resolves for the first time, warm ones it has resolved before. The operating system's cache is warm.

PostgreSQL is the tests', over TCP, with its own defaults. Nothing is measured at once with anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from benchmarks.paired import in_turn, speed
from server.api.app import create_app
from server.core.names import Reference
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.registry.creation import NewVersion, create_versions
from tests.postgres import running_server
from tests.server.support.fake_engine import FakeEngine, tiny_factors

BATCH = 1000
RESOLVES = 20_000
ROUNDS = 5
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}


@dataclass(frozen=True)
class Figures:
    """Of one gateway process. Times in milliseconds, memory in MiB; resolving is left out where there is nothing."""

    start_ms: float
    memory_mib: float
    cold_p50_ms: float | None = None
    cold_p99_ms: float | None = None
    warm_p50_ms: float | None = None
    warm_p99_ms: float | None = None


LABELS = {
    "start_ms": "start to first answer, ms",
    "memory_mib": "memory at most, MiB",
    "cold_p50_ms": "resolve, cold, p50 ms",
    "cold_p99_ms": "resolve, cold, p99 ms",
    "warm_p50_ms": "resolve, warm, p50 ms",
    "warm_p99_ms": "resolve, warm, p99 ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=1_000_000)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--probe", metavar="URL", help="print the figures of one gateway on this database, as JSON")
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(asdict(asyncio.run(probe(args.probe, args.adapters)))))
        return
    table = Table(title=f"{args.adapters:,} adapters of 26 bytes against one, the gateway's own share")
    table.add_column("")
    table.add_column("one", justify="right")
    table.add_column(f"{args.adapters:,}", justify="right")
    table.add_column("times as much", justify="right")
    for kind in args.databases:
        with two_databases(kind) as (empty, full):
            fill(empty, 1)
            seconds = fill(full, args.adapters)
            rate = args.adapters / seconds
            table.add_row(f"[bold]{kind}[/]", "", "")
            table.add_row(f"import in batches of {BATCH}", "", f"{seconds:.0f} s", f"{rate:,.0f}/s")
            add_rows(table, probes((empty, 1), (full, args.adapters)))
    Console(width=110).print(table)


def add_rows(table: Table, found: dict[str, list[Figures]]) -> None:
    for name, label in LABELS.items():
        empty, full = ([getattr(figures, name) for figures in found[which]] for which in ("empty", "full"))
        ratio = "" if empty[0] is None else str(speed(full, empty))
        table.add_row(label, _median(empty), _median(full), ratio)


def _median(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    value = statistics.median(known)
    return f"{value:.3f}" if value < 10 else f"{value:.0f}"


@contextmanager
def two_databases(kind: str) -> Iterator[tuple[str, str]]:
    """The URLs of two new databases."""
    with ExitStack() as stack:
        if kind == "sqlite":
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            yield f"sqlite:///{directory}/empty.db", f"sqlite:///{directory}/full.db"
            return
        server = stack.enter_context(running_server(**DURABLE))
        yield server.url(server.new_database()), server.url(server.new_database())


def fill(url: str, count: int) -> float:
    """Store so many adapters, as the bulk route does; the seconds that it took."""
    database = Database(url)
    recipe = Recipe()
    began = time.perf_counter()
    for first in range(0, count, BATCH):
        batch = [
            NewVersion(
                name_of(number),
                Adapter(recipe, "a" * 64, "bfloat16", struct.pack("<13H", *[number % 16_000] * 13)),
                {"job": f"job-{number % 1000}"},
            )
            for number in range(first, min(first + BATCH, count))
        ]
        database.transact(lambda c, batch=batch: create_versions(database, c, DEFAULT_TENANT_ID, batch))  # type: ignore[misc]
        if sys.stderr.isatty() or first % 100_000 == 0:
            print(f"... {first:,} adapters, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    database.close()
    return seconds


def name_of(number: int) -> str:
    """Names of which neighbours were not stored together."""
    return f"tenant-{number * 7919 % 1000:03}/adapter-{number:07}"


def probes(empty: tuple[str, int], full: tuple[str, int]) -> dict[str, list[Figures]]:
    """The figures of some fresh processes, on one database and on the other in turn. Each is a URL, and how many are in
    it."""
    return in_turn({"empty": partial(probe_in_a_process, *empty), "full": partial(probe_in_a_process, *full)}, ROUNDS)


def probe_in_a_process(url: str, count: int) -> Figures:
    command = [sys.executable, "-m", "benchmarks.registry", "--adapters", str(count), "--probe", url]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return Figures(**json.loads(output.splitlines()[-1]))


async def probe(url: str, count: int) -> Figures:
    """The figures of a gateway in this process."""
    with tempfile.TemporaryDirectory() as directory:
        engine = FakeEngine(tiny_factors(Path(directory)))
    chosen = random.Random()
    began = time.perf_counter()
    database = Database(url)
    app = create_app(Settings(database_url=url, log_level="error"), engine, database)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        body = {"prompt": "", "adapter": name_of(0)}
        response = await client.post("/v1/completions", json=body)
        start_ms = 1000 * (time.perf_counter() - began)
        # The adapters are of no model that there is: finding them is what is measured, and the answer says so.
        assert response.json().get("error", {}).get("code") in (None, "factors_mismatch"), response.text
    times: dict[str, list[float]] = {}
    if count > RESOLVES:
        registry = app.state.gateway.registry
        references = [Reference(name_of(number)) for number in chosen.sample(range(1, count), RESOLVES)]
        for label in ("cold", "warm"):
            times[label] = []
            for reference in references:
                before = time.perf_counter()
                await registry.resolve(DEFAULT_TENANT_ID, reference)
                times[label].append(1000 * (time.perf_counter() - before))
            chosen.shuffle(references)
    await app.state.gateway.reads.close()
    database.close()
    return Figures(
        start_ms=start_ms,
        memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **{
            f"{label}_{name}_ms": statistics.quantiles(values, n=100)[at - 1]
            for label, values in times.items()
            for name, at in (("p50", 50), ("p99", 99))
        },
    )


if __name__ == "__main__":
    main()
