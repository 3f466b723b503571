"""What a tenant notices of another one that sends fifty times its quota: its p99 latency alone and beside the flood.

The quiet tenant sends one request after the other, in rounds: half of those that count as alone, then those beside the
flood, then the other half, so that a slow minute of the machine falls on both. Ratios are of a round; what is printed
are medians over rounds, with the lowest and the highest. The flood sends at a steady pace and waits for no answers; it
has used up what a full bucket lets pass at once before anything is measured.

Not in it: what the requests cost that the flood's quota does let pass, which are other tenants' good right. With
--no-quota all of the flood waits in the queue instead of being refused, and only fair queueing protects the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.http_servers import best_dtype, same_flags, tinylora_server

TOKENS = 16
REQUESTS_PER_MINUTE = 60
TIMES_ITS_QUOTA = 50
ADMIN_KEY = "TINYLORA_ADMIN_KEY"
NO_ANSWER = 0


@dataclass
class Flood:
    """How many requests of the flood were answered, by status (NO_ANSWER: the connection failed)."""

    statuses: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds of the quiet tenant's requests, and what the flood was answered meanwhile."""

    alone: Sequence[float]
    beside: Sequence[float]
    flood: Counter[int]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running server; without it one is started")
    parser.add_argument(
        "--admin-key", default=os.environ.get(ADMIN_KEY) or secrets.token_urlsafe(32), help=f"by default {ADMIN_KEY}"
    )
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default=best_dtype(), help="of the server (default here: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="without compilation")
    parser.add_argument("--batches", nargs="+", type=int, default=[32], help="at most so many requests in a batch")
    parser.add_argument(
        "--requests", type=int, default=200, help="of the quiet tenant in a round, alone and beside the flood each"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--warm-up", type=float, default=30.0, help="seconds of flood before it is measured, in each round"
    )
    parser.add_argument(
        "--quota", type=int, default=REQUESTS_PER_MINUTE, help="requests per minute of the flooding tenant"
    )
    parser.add_argument("--no-quota", action="store_true", help="the flood waits in the queue instead of being refused")
    args = parser.parse_args(arguments)
    if args.requests < 2 or args.requests % 2 or args.rounds < 1:
        parser.error("expected an even number of requests, at least two, and a round")
    with running(args) as url:
        asyncio.run(measure(url, args))


@contextlib.contextmanager
def running(args: argparse.Namespace) -> Iterator[str]:
    if args.url:
        yield args.url
        return
    os.environ[ADMIN_KEY] = args.admin_key
    with tinylora_server(args.model, same_flags(args.dtype, max(args.batches), eager=args.eager)) as server:
        yield server.url


async def measure(url: str, args: argparse.Namespace) -> None:
    quota = None if args.no_quota else args.quota
    quiet_key, flood_key = new_tenant(url, args.admin_key, "quiet"), new_tenant(url, args.admin_key, "flood", quota)
    half = args.requests // 2
    rounds = []
    async with tenant(url, quiet_key) as quiet, tenant(url, flood_key) as flooding:
        listed = (await quiet.get("/v1/models")).raise_for_status()
        model = str(listed.json()["data"][0]["id"])
        await latencies_ms(quiet, model, 5)
        for _ in range(args.rounds):
            alone = await latencies_ms(quiet, model, half)
            async with flood(flooding, model, args.quota * TIMES_ITS_QUOTA / 60, args.warm_up) as flooded:
                beside = await latencies_ms(quiet, model, args.requests)
                answered = Counter(flooded.statuses)
            await settle()
            alone += await latencies_ms(quiet, model, half)
            rounds.append(Round(alone, beside, answered))
    print_table(rounds)


def new_tenant(url: str, admin_key: str, name: str, requests_per_minute: int | None = None) -> str:
    """A key of a tenant that is new at every run."""
    name = f"{name}-{time.time_ns()}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {admin_key}"}) as admin:
        body = {"name": name, "requests_per_minute": requests_per_minute}
        admin.post("/v1/tenants", json=body).raise_for_status()
        made = admin.post(f"/v1/tenants/{name}/keys", json={"name": "benchmark", "scopes": ["infer"]})
        made.raise_for_status()
        return str(made.json()["key"])


def tenant(url: str, key: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=600, limits=limits)


async def latencies_ms(client: httpx.AsyncClient, model: str, count: int) -> list[float]:
    measured = []
    for number in range(count):
        start = time.perf_counter()
        (await complete(client, model, number)).raise_for_status()
        measured.append(1000 * (time.perf_counter() - start))
    return measured


async def complete(client: httpx.AsyncClient, model: str, number: int) -> httpx.Response:
    body = {
        "model": model, "prompt": f"Question {number}: name three towns. Answer:", "max_tokens": TOKENS,
        "temperature": 0, "ignore_eos": True,
    }  # fmt: skip
    return await client.post("/v1/completions", json=body)


@contextlib.asynccontextmanager
async def flood(client: httpx.AsyncClient, model: str, per_second: float, warm_up_s: float) -> AsyncIterator[Flood]:
    """Sends so many requests per second while the block runs, and for `warm_up_s` before."""
    answered = Flood()
    pending: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        status = NO_ANSWER
        with contextlib.suppress(httpx.TransportError):
            status = (await complete(client, model, number)).status_code
        answered.statuses[status] += 1

    async def send() -> None:
        began = time.perf_counter()
        for number in range(1_000_000):
            task = asyncio.create_task(one(number))
            pending.add(task)
            task.add_done_callback(pending.discard)
            due = began + (number + 1) / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    sending = asyncio.create_task(send())
    await asyncio.sleep(warm_up_s)
    answered.statuses.clear()
    try:
        yield answered
    finally:
        sending.cancel()
        for task in list(pending):
            task.cancel()
        await asyncio.gather(sending, *pending, return_exceptions=True)


async def settle() -> None:
    """A moment for the server to drop what the flood left behind."""
    await asyncio.sleep(5)


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def print_table(rounds: Sequence[Round]) -> None:
    table = Table(
        title=f"Latency of a quiet tenant, {TOKENS} tokens a request: median of {len(rounds)} rounds (lowest-highest)"
    )
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("p99", justify="right")
    found = {
        "alone": [[of(one.alone) for one in rounds] for of in (statistics.median, p99)],
        "beside the flood": [[of(one.beside) for one in rounds] for of in (statistics.median, p99)],
    }
    for label, columns in found.items():
        table.add_row(label, *(f"{spread(values, 0)} ms" for values in columns))
    pairs = zip(found["alone"], found["beside the flood"], strict=True)
    ratios = [[then / before for before, then in zip(alone, beside, strict=True)] for alone, beside in pairs]
    table.add_row("ratio", *(spread(values, 2) for values in ratios))
    console = Console(width=120)
    console.print(table)
    statuses = sum((one.flood for one in rounds), Counter[int]())
    seconds, sent = sum(sum(one.beside) for one in rounds) / 1000, statuses.total()
    console.print(
        f"The flood: {sent / seconds:.1f} answers/s, of which {statuses[429]} of {sent} with status 429 and "
        f"{statuses[200]} with 200."
    )


def spread(values: Sequence[float], digits: int) -> str:
    """`1.10 (0.95-1.30)`: the median, the lowest and the highest."""
    return "{:.{d}f} ({:.{d}f}-{:.{d}f})".format(statistics.median(values), min(values), max(values), d=digits)


if __name__ == "__main__":
    main()
