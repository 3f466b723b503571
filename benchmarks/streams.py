"""Processor time of the process that answers, per streamed token: this server against vLLM's own without adapters.

A large GPU with a small model makes tokens faster than one process can send them, so what a token costs there is the
speed of such a server. Both serve the same model with the same flags, tool calls included, and are alive together; the
same client, a process of its own, asks them in turn (paired.py) for so many streams at once. Printed: milliseconds for
a request of one token and microseconds for each token beyond, median, and the ratio to vLLM's (median over rounds,
lowest and highest).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.gateway import Body, upload
from benchmarks.http_servers import OURS, VLLM, Server, best_dtype, same_flags, tinylora_server, vllm_server
from benchmarks.paired import in_turn, speed

TOKENS = 128
REPEATS = 2  # of requests of one token, whose time is near what an operating system counts in
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")  # as this server has them by default


@dataclass(frozen=True, slots=True)
class Streams:
    """So many streams at once from a server; `adapter` is what the body of the i-th says of adapters."""

    server: Server
    streams: int
    adapter: Callable[[int], Body] = lambda _: {}

    def costs(self) -> tuple[float, float]:
        """Processor seconds of the process that answers: for a request of one token, and for each token beyond."""
        request_s = sum(self._seconds(1) for _ in range(REPEATS)) / REPEATS / self.streams
        return request_s, (self._seconds(TOKENS) / self.streams - request_s) / (TOKENS - 1)

    def _seconds(self, tokens: int) -> float:
        process = psutil.Process(self.server.pid)
        before = process.cpu_times()
        asyncio.run(self._ask(tokens))
        after = process.cpu_times()
        return float(after.user + after.system - before.user - before.system)

    async def _ask(self, tokens: int) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=600, limits=limits) as client:
            await asyncio.gather(*(self._one(client, i, tokens) for i in range(self.streams)))

    async def _one(self, client: httpx.AsyncClient, i: int, tokens: int) -> None:
        body = {
            "model": "base",
            "messages": [{"role": "user", "content": f"Story {i}: a town of {i + 2} houses."}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        async with client.stream("POST", "/v1/chat/completions", json=body | self.adapter(i)) as response:
            response.raise_for_status()
            async for _ in response.aiter_raw():
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default=best_dtype(), help="of both servers (default here: %(default)s)")
    parser.add_argument("--streams", type=int, default=32, help="at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    flags = same_flags(args.dtype, args.streams)
    with vllm_server(args.model, [*flags, *TOOLS]) as theirs, tinylora_server(args.model, flags) as ours:
        names = upload(ours.url, args.streams)
        variants = {
            f"{VLLM}, base": Streams(theirs, args.streams),
            f"{OURS}, base": Streams(ours, args.streams),
            f"{OURS}, all adapters distinct": Streams(ours, args.streams, lambda i: {"adapter": names[i]}),
        }
        for variant in variants.values():
            variant.costs()  # warm-up
        print(f"... {args.streams} streams of {TOKENS} tokens, {args.rounds} rounds", file=sys.stderr, flush=True)
        costs = in_turn({name: variant.costs for name, variant in variants.items()}, args.rounds)
    print_table(args, costs)


def print_table(args: argparse.Namespace, costs: dict[str, list[tuple[float, float]]]) -> None:
    table = Table(title=f"Processor time of the process that answers, {args.streams} streams at once, {args.dtype}")
    for column in ("", "ms for a request", "times vLLM's", "us for a token beyond", "times vLLM's"):
        table.add_column(column, justify="right" if column else "left")
    base_requests, base_tokens = zip(*next(iter(costs.values())), strict=True)
    for name, found in costs.items():
        requests, tokens = zip(*found, strict=True)
        cells = [f"{1e3 * statistics.median(requests):.1f}", str(speed(requests, base_requests))]
        table.add_row(name, *cells, f"{1e6 * statistics.median(tokens):.0f}", str(speed(tokens, base_tokens)))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
