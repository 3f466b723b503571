"""Tokens per second and time to first token over HTTP: this server against vLLM's own OpenAI server without adapters.

Both serve the same model with the same flags, one at a time, to the same client. A figure is the best of the repeats of
so many requests sent at once; adapters are all distinct and registered before. Not in it: what the engine alone does
(throughput.py).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from rich.console import Console
from rich.table import Table

from adapters.vector.codec import encode
from adapters.vector.recipe import Recipe
from server.launch.cpu_defaults import auto_dtype

TOKENS = 64
BATCHES = (1, 8, 32)
FIRST_TOKENS = 20
START_TIMEOUT_S = 900
VLLM, OURS = "vLLM's own server", "tinylora serve"
Body = dict[str, Any]


@dataclass
class Row:
    """Seconds of every repeat by batch size, and milliseconds to the first token of every single request."""

    label: str
    seconds: dict[int, list[float]] = field(default_factory=dict)
    first_token_ms: list[float] = field(default_factory=list)

    def tokens_per_s(self, batch: int) -> float:
        return batch * TOKENS / min(self.seconds[batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default=best_dtype(), help="of both servers (default here: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="without compilation, in both servers")
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    rows: list[Row] = []
    with vllm_server(args) as url:
        rows += asyncio.run(measure(url, args, {f"{VLLM}, base": lambda _: {}}))
    with tinylora_server(args) as url:
        names = upload(url, max(args.batches))
        variants: dict[str, Callable[[int], Body]] = {
            f"{OURS}, base": lambda _: {},
            f"{OURS}, every request another adapter": lambda i: {"adapter": names[i % len(names)]},
        }
        rows += asyncio.run(measure(url, args, variants))
        never_seen = Row(f"{OURS}, inline adapter never seen before")
        asyncio.run(measure_first_tokens(url, [(never_seen, lambda i: {"adapter": {"vector": vector(1_000_000 + i)}})]))
        rows.append(never_seen)
    print_table(args, rows)


def best_dtype() -> str:
    """What `tinylora serve` would choose, so that vLLM's own server can be given the same."""
    return "auto" if torch.cuda.is_available() else auto_dtype()


def vllm_server(args: argparse.Namespace) -> contextlib.AbstractContextManager[str]:
    return serving(VLLM, ["-m", "vllm.entrypoints.openai.api_server", "--model", args.model], args)


def tinylora_server(args: argparse.Namespace) -> contextlib.AbstractContextManager[str]:
    return serving(OURS, ["-m", "server.launch.cli", "serve", args.model], args)


@contextlib.contextmanager
def serving(name: str, command: list[str], args: argparse.Namespace) -> Iterator[str]:
    """Runs a server with the flags that both get; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [
        "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "base", "--dtype", args.dtype,
        "--max-model-len", "512", "--max-num-seqs", str(max(args.batches)), "--max-num-batched-tokens", "512",
        "--kv-cache-memory-bytes", str(1 << 30), "--no-enable-prefix-caching",
        *(["--enforce-eager"] if args.eager else []),
    ]  # fmt: skip
    print(f"... {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as output:
        environment = {
            **os.environ,
            "VLLM_LOGGING_LEVEL": "WARNING",
            "TINYLORA_DATABASE_URL": f"sqlite:///{Path(directory)}/adapters.db",
        }
        process = subprocess.Popen(
            [sys.executable, *command, *flags], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        url = f"http://127.0.0.1:{port}"
        try:
            if not started(process, url):
                output.seek(0)
                sys.exit(f"{name} did not start:\n{output.read().decode(errors='replace')}")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def started(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").status_code == 200:
                return True
        time.sleep(0.5)
    return False


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


async def measure(url: str, args: argparse.Namespace, variants: dict[str, Callable[[int], Body]]) -> list[Row]:
    """A row per variant. Their repeats take turns, so that a slow minute of the machine falls on all of them."""
    rows = [(Row(label), adapter) for label, adapter in variants.items()]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        for _, adapter in rows:
            await seconds(client, max(args.batches), adapter)  # warm-up
        for batch in args.batches:
            for _ in range(args.repeats):
                for row, adapter in rows:
                    row.seconds.setdefault(batch, []).append(await seconds(client, batch, adapter))
    await measure_first_tokens(url, rows)
    return [row for row, _ in rows]


async def measure_first_tokens(url: str, rows: list[tuple[Row, Callable[[int], Body]]]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await first_token_ms(client, 0, {})  # opens the connection
        for i in range(FIRST_TOKENS):
            for row, adapter in rows:
                row.first_token_ms.append(await first_token_ms(client, i, adapter(i)))


async def seconds(client: httpx.AsyncClient, batch: int, adapter: Callable[[int], Body]) -> float:
    async def complete(i: int) -> None:
        response = await client.post("/v1/completions", json=request(i) | adapter(i))
        response.raise_for_status()
        generated = response.json()["usage"]["completion_tokens"]
        assert generated == TOKENS, f"{generated} tokens were generated, expected {TOKENS}"

    start = time.perf_counter()
    await asyncio.gather(*(complete(i) for i in range(batch)))
    return time.perf_counter() - start


async def first_token_ms(client: httpx.AsyncClient, i: int, adapter: Body) -> float:
    start = time.perf_counter()
    body = request(i) | adapter | {"stream": True, "max_tokens": 2}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        lines = response.aiter_lines()
        await anext(lines)
        elapsed = time.perf_counter() - start
        async for _ in lines:
            pass
    return 1000 * elapsed


def request(i: int) -> Body:
    prompt = f"Question {i}: name three things that one finds in a town of {i + 2} houses. Answer:"
    return {"model": "base", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


def print_table(args: argparse.Namespace, rows: list[Row]) -> None:
    mode = "eager" if args.eager else "compiled"
    table = Table(
        title=f"{args.model}, {args.dtype}, {mode}, over HTTP, {TOKENS} tokens a request (tokens/s, ratio to {VLLM})"
    )
    table.add_column("")
    for batch in args.batches:
        table.add_column(f"{batch} at once", justify="right")
    table.add_column("first token, median", justify="right")
    for row in rows:
        cells = [
            f"{row.tokens_per_s(batch):.0f}  {row.tokens_per_s(batch) / rows[0].tokens_per_s(batch):.2f}"
            if batch in row.seconds
            else ""
            for batch in args.batches
        ]
        table.add_row(row.label, *cells, f"{statistics.median(row.first_token_ms):.1f} ms")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
