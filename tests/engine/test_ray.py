"""An engine whose processes run on a Ray cluster, with a rank on each of two nodes; skipped without Ray (`make ray`).

The nodes are processes of this machine and have no GPUs: ray_on_cpu lets vLLM's executor run there all the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PLATFORM = Path(__file__).with_name("ray_on_cpu")
# Ray starts workers at niceness 15, so beside other work they would hardly run.
RAY = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
ENGINE = {"tensor_parallel_size": 2, "distributed_executor_backend": "ray"}

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make ray"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="it has vLLM take GPUs that are not there"),
]


@contextmanager
def two_nodes(environment: dict[str, str]) -> Iterator[Any]:
    """A Ray cluster of this machine's processes, each of the two nodes with room for one rank."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20, "env_vars": environment}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
    try:
        cluster.add_node(**node)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.timeout(3600)
def test_ranks_on_two_nodes_give_every_request_its_adapter() -> None:
    """The tests of answers again, in a process of its own: this one may have imported vLLM, on its own platform."""
    environment = {
        "PYTHONPATH": os.pathsep.join([str(PLATFORM), str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    with two_nodes(environment | RAY) as cluster:
        nodes = [node.node_id for node in cluster.list_all_nodes()]
        own = {"RAY_ADDRESS": cluster.address, "TINYLORA_TEST_ENGINE": json.dumps(ENGINE)}
        command = [sys.executable, "-m", "pytest", "-q", "-s", "--timeout=3500", "tests/engine/test_answers.py"]
        done = subprocess.run(
            [*command, "-k", "weight_0 or batch_of_32 or prefilled or prefix_cache"],
            cwd=ROOT,
            env=os.environ | environment | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout[-5000:]
    # vLLM warns of each node that it has fewer GPUs than there are ranks; the first rank of each node is its number 0.
    for node in nodes:
        assert f"1 GPUs) in a node {node}" in done.stdout, f"no rank on node {node}"
    for rank in (0, 1):
        assert f"world_size=2 rank={rank} local_rank=0" in done.stdout, done.stdout[-5000:]
