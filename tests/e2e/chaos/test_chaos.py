"""Everything at once, at random: no answer is another's, nobody's request ends another's, and nothing grows.

make test ARGS='tests/e2e/chaos'                                          a few hundred operations
make test ARGS='tests/e2e/chaos --chaos-minutes 60 --chaos-seed 7'        for an hour
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import torch

from adapters.factors_build import find_or_build_factors
from clients.examples.make_task import make_task
from tests.e2e.chaos.operations import Chaos
from tests.e2e.chaos.reference import Reference
from tests.e2e.chaos.world import NAMES, Answer, Tenant
from tests.e2e.running import AS_ADMIN, ServerProcess
from tests.e2e.tenants import new_tenant
from tests.e2e.test_training_killed import has_succeeded, new_job, until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

AT_ONCE = 12
OPERATIONS = 400
TENANTS = 3
# transformers and vLLM differ by 1e-5 in float32; two adapters of a plan by tenths and more.
TOLERANCE = 5e-3
# Compared of a long run, so that the comparison does not take longer than the run. All are checked by name.
MOST_COMPARED = 2000
GROWTH_MIB = 150
# Whatever is not a registered adapter's name.
NAMES_IN_METRICS = {"base", "inline", "mix", "unresolved", "other", "former"}


async def run(chaos: Chaos, *, operations: int, until_time: float | None) -> None:
    """AT_ONCE clients, each with one operation at a time; the first that fails ends all."""
    left = operations

    async def client() -> None:
        nonlocal left
        while (left > 0) if until_time is None else (time.monotonic() < until_time):
            left -= 1
            await chaos.step()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(client())


def memory_mib(server: ServerProcess) -> float:
    """Of the gateway and the engine; the training worker comes and goes."""
    main = psutil.Process(server.process.pid)
    worker = server.worker()
    processes = [main, *(child for child in main.children(recursive=True) if child != worker)]
    return sum(process.memory_info().rss for process in processes) / 2**20


@pytest.mark.timeout(3 * 3600)
async def test_chaos(
    server: ServerProcess, http: httpx.Client, client: openai.OpenAI, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    minutes, seed = pytestconfig.getoption("chaos_minutes"), pytestconfig.getoption("chaos_seed")
    tenants = [Tenant(f"chaos-{seed}-{n}", new_tenant(http, f"chaos-{seed}-{n}")) for n in range(TENANTS)]
    training, _ = make_task(tmp_path)
    job = new_job(client, client.files.create(file=training, purpose="fine-tune").id)

    limits = httpx.Limits(max_connections=2 * AT_ONCE)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as async_http:
        chaos = Chaos(async_http, tenants, server.model, seed)
        await run(chaos, operations=OPERATIONS // 2, until_time=None)
        memory, metrics = memory_mib(server), http.get("/metrics").text
        ends = None if not minutes else time.monotonic() + 60 * minutes
        await run(chaos, operations=OPERATIONS // 2, until_time=ends)
    until(lambda: has_succeeded(client, job), seconds=900)

    assert http.get("/ready", headers=AS_ADMIN).status_code == 200
    memory_after, metrics_after = memory_mib(server), http.get("/metrics").text
    print(f"\nseed {seed}: {chaos.counts.total()} operations {dict(chaos.counts)}, {len(chaos.answers)} answers")
    print(f"memory {memory:.0f} -> {memory_after:.0f} MiB, /metrics {len(metrics)} -> {len(metrics_after)} bytes")
    worst = compare(chaos.answers, server.model_path)
    print(f"largest difference of a log-probability: {worst:.2g}")
    assert not chaos.forgiven, "\n".join(sorted(set(chaos.forgiven)))
    assert memory_after < memory + GROWTH_MIB
    assert adapters_in(metrics_after) <= {
        *NAMES_IN_METRICS,
        *(f"~{one.name}/{name}" for one in tenants for name in NAMES),
    }


def compare(answers: Sequence[Answer], model: Path) -> float:
    """Each answer with its own adapter alone, by transformers. Returns the largest difference."""
    torch.set_num_threads(1)  # the engine has the other core
    reference = Reference(model, find_or_build_factors(str(model), rank=2, kind="svd"))
    every = max(1, -(-len(answers) // MOST_COMPARED))
    compared = answers[::every]
    worst, told_apart, tried = 0.0, 0, 0
    for number, (answer, other) in enumerate(zip(compared, [*compared[1:], compared[0]], strict=True)):
        expected = reference.logprobs(answer.vector, answer.prompt, answer.tokens)
        difference = distance(answer.logprobs, expected)
        assert difference < TOLERANCE, f"{answer.asked}: {answer.logprobs}, alone {expected}"
        worst = max(worst, difference)
        if number % 5 == 0 and other.vector is not None:
            tried += 1
            others = reference.logprobs(other.vector, answer.prompt, answer.tokens)
            told_apart += distance(answer.logprobs, others) > 10 * TOLERANCE
    assert tried and told_apart > 0.8 * tried, "answers of different adapters are too much alike for this test"
    return worst


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(one, other, strict=True))


def adapters_in(metrics: str) -> set[str]:
    """The values of every label that could name an adapter."""
    return set(re.findall(r'(?:adapter|lora\w*|model)="([^"]*)"', metrics))
