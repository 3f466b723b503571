"""Tokens per second and time to first token over HTTP: this server against vLLM's own OpenAI server without adapters.

Both serve the same model with the same flags and are alive together; the same client asks them in turn (paired.py), so
many requests at once. Adapters are all distinct and registered before. Printed: tokens per second (median), and the
ratio to vLLM's own server (median over rounds, lowest and highest). Not in it: what the engine alone does
(throughput.py).
"""

from __future__ import annotations

import argparse
import base64
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import httpx
import torch
from rich.console import Console
from rich.table import Table

from adapters.vector.codec import encode
from adapters.vector.recipe import Recipe
from benchmarks.http_servers import OURS, VLLM, best_dtype, same_flags, tinylora_server, vllm_server
from benchmarks.paired import in_turn, speed

TOKENS = 64
BATCHES = (1, 8, 32)
FIRST_TOKENS = 20
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A server, and what the body of the i-th request says of adapters."""

    label: str
    client: httpx.Client
    adapter: Callable[[int], Body]

    def seconds(self, batch: int) -> float:
        """How long `batch` requests at once take."""

        def complete(i: int) -> None:
            response = self.client.post("/v1/completions", json=request(i) | self.adapter(i))
            response.raise_for_status()
            generated = response.json()["usage"]["completion_tokens"]
            assert generated == TOKENS, f"{generated} tokens were generated, expected {TOKENS}"

        start = time.perf_counter()
        with ThreadPoolExecutor(batch) as threads:
            list(threads.map(complete, range(batch)))
        return time.perf_counter() - start

    def first_token_s(self, i: int) -> float:
        """How long the first token of the i-th request takes."""
        body = request(i) | self.adapter(i) | {"stream": True, "max_tokens": 2}
        start = time.perf_counter()
        with self.client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            lines = response.iter_lines()
            next(lines)
            elapsed = time.perf_counter() - start
            for _ in lines:
                pass
        return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default=best_dtype(), help="of both servers (default here: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="without compilation, in both servers")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    limits = httpx.Limits(max_connections=None)
    flags = same_flags(args.dtype, max(args.batches), eager=args.eager)
    with (
        vllm_server(args.model, flags) as theirs,
        tinylora_server(args.model, flags) as ours,
        httpx.Client(base_url=theirs.url, timeout=600, limits=limits) as vllm,
        httpx.Client(base_url=ours.url, timeout=600, limits=limits) as tinylora,
    ):
        names = upload(ours.url, max(args.batches))
        variants = [
            Variant(f"{VLLM}, base", vllm, lambda _: {}),
            Variant(f"{OURS}, base", tinylora, lambda _: {}),
            Variant(f"{OURS}, all adapters distinct", tinylora, lambda i: {"adapter": names[i % len(names)]}),
        ]
        new = Variant(
            f"{OURS}, inline adapter never seen", tinylora, lambda i: {"adapter": {"vector": vector(1_000_000 + i)}}
        )
        for variant in variants:
            variant.seconds(max(args.batches))  # warm-up
        seconds = {}
        for batch in args.batches:
            print(f"... {batch} at once, {args.rounds} rounds", file=sys.stderr, flush=True)
            seconds[batch] = in_turn({one.label: partial(one.seconds, batch) for one in variants}, args.rounds)
        numbers = {one.label: count() for one in (*variants, new)}
        first = in_turn(
            {one.label: lambda one=one: one.first_token_s(next(numbers[one.label])) for one in (*variants, new)},
            FIRST_TOKENS,
        )
    print_table(args, seconds, first)


def vector(seed: int) -> str:
    """A vector of the default recipe in bfloat16, of the size that training arrives at, as base64."""
    recipe = Recipe()
    generator = torch.Generator().manual_seed(seed)
    values = 0.02 * torch.randn(recipe.groups, recipe.u, generator=generator)
    return base64.b64encode(encode(values, "bfloat16")).decode()


def upload(url: str, count: int) -> list[str]:
    names = [f"tenant{i}" for i in range(count)]
    for i, name in enumerate(names):
        httpx.post(f"{url}/v1/adapters", json={"name": name, "vector": vector(i)}).raise_for_status()
    return names


def request(i: int) -> Body:
    prompt = f"Question {i}: name three things that one finds in a town of {i + 2} houses. Answer:"
    return {"model": "base", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


def print_table(
    args: argparse.Namespace, seconds: dict[int, dict[str, list[float]]], first: dict[str, list[float]]
) -> None:
    mode = "eager" if args.eager else "compiled"
    table = Table(
        title=f"{args.model}, {args.dtype}, {mode}, over HTTP, {TOKENS} tokens a request "
        f"(tokens/s; ratio to {VLLM}: median, lowest-highest)"
    )
    table.add_column("")
    for batch in args.batches:
        table.add_column(f"{batch} at once", justify="right")
    table.add_column("first token, median", justify="right")
    base = next(iter(first))
    for label, took in first.items():
        cells = []
        for batch, by_label in seconds.items():
            of_label = by_label.get(label)
            rate = "" if of_label is None else f"{batch * TOKENS / statistics.median(of_label):.0f}"
            cells.append(f"{rate}  {speed(by_label[base], of_label)}" if of_label and label != base else rate)
        table.add_row(label, *cells, f"{1000 * statistics.median(took):.1f} ms")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
