"""Everything at once, at random: no answer is another's, nobody's request ends another's, and nothing grows.

make test ARGS='tests/e2e/chaos'                                          a few hundred operations
make test ARGS='tests/e2e/chaos --chaos-minutes 60 --chaos-seed 7'        for an hour
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from clients.examples.make_task import make_task
from tests.e2e.chaos.operations import Chaos
from tests.e2e.chaos.reference import Comparison
from tests.e2e.chaos.world import NAMES, Tenant
from tests.e2e.running import AS_ADMIN, ServerProcess
from tests.e2e.tenants import new_tenant
from tests.e2e.test_training_killed import has_succeeded, new_job, until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

AT_ONCE = 12
OPERATIONS = 400
TENANTS = 3
MOST_WAITING = 200
# What is remembered of adapters has bounds (64 MiB of forms, 64 MiB of identities, projections): they fill.
GROWTH_MIB = 250
# Whatever is not a registered adapter's name.
NAMES_IN_METRICS = {"base", "inline", "mix", "unresolved", "other", "former"}


async def run(chaos: Chaos, comparison: Comparison, *, operations: int, until_time: float | None) -> None:
    """AT_ONCE clients, each with one operation at a time, while their answers are compared; the first fault ends all.

    Clients wait while many answers are to be compared, so that all are, however long it runs.
    """
    left = operations

    async def client() -> None:
        nonlocal left
        while (left > 0) if until_time is None else (time.monotonic() < until_time):
            left -= 1
            await chaos.step()
            while len(chaos.answers) > MOST_WAITING:
                await asyncio.sleep(0.1)

    async def compare() -> None:
        while chaos.answers or not all(one.done() for one in clients):
            if chaos.answers:
                await asyncio.to_thread(comparison.check, chaos.answers.popleft())
            else:
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(client()) for _ in range(AT_ONCE)]
        group.create_task(compare())


def memory_mib(server: ServerProcess) -> float:
    """Of the gateway and the engine. Its other processes (training, grammars, projections) come and go, and are each
    bounded."""
    main = psutil.Process(server.process.pid)
    engine = [child for child in main.children(recursive=True) if "VLLM" in " ".join(child.cmdline())]
    assert engine
    return sum(process.memory_info().rss for process in (main, *engine)) / 2**20


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
        chaos, comparison = Chaos(async_http, tenants, server.model, seed), Comparison.of(server.model_path)
        await run(chaos, comparison, operations=OPERATIONS // 2, until_time=None)
        memory, metrics = memory_mib(server), http.get("/metrics").text
        ends = None if not minutes else time.monotonic() + 60 * minutes
        await run(chaos, comparison, operations=OPERATIONS // 2, until_time=ends)
    until(lambda: has_succeeded(client, job), seconds=900)

    assert http.get("/ready", headers=AS_ADMIN).status_code == 200
    memory_after, metrics_after = memory_mib(server), http.get("/metrics").text
    print(f"\nseed {seed}: {chaos.counts.total()} operations {dict(chaos.counts)}")
    print(f"memory {memory:.0f} -> {memory_after:.0f} MiB, /metrics {len(metrics)} -> {len(metrics_after)} bytes")
    print(f"{comparison.compared} answers compared, largest difference of a log-probability {comparison.worst:.2g}")
    assert comparison.told_apart > 0.8 * comparison.tried_others > 0, "adapters too much alike for this test"
    assert not chaos.forgiven, "\n".join(sorted(set(chaos.forgiven)))
    assert memory_after < memory + GROWTH_MIB
    assert adapters_in(metrics_after) <= {
        *NAMES_IN_METRICS,
        server.model,
        *(f"~{one.name}/{name}" for one in tenants for name in NAMES),
    }


def adapters_in(metrics: str) -> set[str]:
    """The values of every label that could name an adapter."""
    return set(re.findall(r'(?:adapter|lora\w*|model)="([^"]*)"', metrics))
