"""Workers on a real Ray cluster of this machine's processes; skipped without Ray, which `make ray` installs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from adapters.factors.factors import Factors
from server.db.training_tables import JOBS
from tests.server.support.nginx import free_port
from tests.server.support.sampling_engine import tiny_tokenizer
from tests.server.support.served import listening
from tests.server.support.site import SIMILAR, Site, rows, site

COMMAND = [sys.executable, "-m", "server.launch.cli", "worker", "--ray"]
JOB = {"batch_size": 2, "group_size": 4, "max_completion_tokens": 2, "epochs": 9, "max_steps": 60}
PATIENCE_S = 500
NODE = {"object_store_memory": 80 * 2**20}
with_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make ray")


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_command_says_how_to_install_it() -> None:
    ended = subprocess.run(COMMAND, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "--ray needs Ray, which is not installed: make ray" in ended.stderr


@with_ray
def test_without_a_cluster_the_command_says_how_to_start_one() -> None:
    ended = subprocess.run([*COMMAND, "--ray-address", f"127.0.0.1:{free_port()}"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "There is no Ray cluster" in ended.stderr and "ray start --head" in ended.stderr


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Ray's own, with a head that has room for nothing, and `nodes` nodes with room for a worker each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE})
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1, **NODE)
        yield made
    finally:
        made.shutdown()


@asynccontextmanager
async def driver(address: str, url: str, path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """`tinylora worker --ray` with one worker, and the lines that it prints."""
    flags = ["--ray-address", address, "--url", url, "--model", str(path), "--log-dir", f"{path}/curves"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(*COMMAND, *flags, env=environment, **pipes)  # type: ignore[arg-type]
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            lines.append(line.decode())

    reading = asyncio.create_task(read())
    try:
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        reading.cancel()


async def told(lines: list[str], pattern: str) -> str:
    """The first line like this, once there is one."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := [line for line in lines if re.search(pattern, line)]):
            await asyncio.sleep(0.1)
    return found[0]


async def job_when(here: Site, job_id: str, until: Callable[[Any], bool]) -> Any:
    """The row of the job, once it is as `until` says. Asked seldom: several processes start meanwhile."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with here.database.read() as connection:
                row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).one()
            if until(row):
                return row
            assert row.status not in ("failed", "cancelled"), row.error
            await asyncio.sleep(0.3)


def die(nodes: Any, node: Any) -> None:
    """All processes of the node are gone at once, as with the power."""
    (raylet,) = node.all_processes["raylet"]
    below = psutil.Process(raylet.process.pid).children(recursive=True)
    nodes.remove_node(node, allow_graceful=False)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE_S)
async def test_a_job_goes_on_on_another_node_when_the_one_of_its_worker_dies(
    tmp_path: Path, path: Path, factors: Factors
) -> None:
    tiny_tokenizer().save_pretrained(path)
    async with site(tmp_path, path, factors) as here, listening(here.app) as url:
        job_id = await here.job(rows(10), SIMILAR, **JOB)
        with cluster(nodes=2) as nodes:
            async with driver(nodes.address, url, path) as (process, lines):
                first = await told(lines, r"worker 0 runs on node")
                killed = await job_when(here, job_id, lambda job: (job.step or 0) >= 1)
                here.engine.hold = asyncio.Event()  # the job must not end before the node does
                (dying,) = [node for node in nodes.worker_nodes if node.node_id[:8] in first]
                await asyncio.to_thread(die, nodes, dying)
                second = await told(lines, r"worker 0 runs on node .*which is gone")
                assert dying.node_id[:8] in second.partition("before on")[2]
                await job_when(here, job_id, lambda job: job.lease_owner not in (killed.lease_owner, None))
                here.engine.hold.set()
                await job_when(here, job_id, lambda job: job.status == "succeeded")
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(90):
                    assert await process.wait() == 0, "".join(lines)
