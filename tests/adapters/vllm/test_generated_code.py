"""What the delta costs a GPU, read from the code that Inductor generates for a 7B: no pass that was not foreseen.

Needs a CUDA build of torch and Triton, and no GPU. TINYLORA_TEST_CUDA_PYTHON names a Python that has them, where this
one has not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("TINYLORA_TEST_CUDA_PYTHON", sys.executable)
HAS_CUDA_TORCH = "import importlib.util as u, torch, sys; sys.exit(not (torch.version.cuda and u.find_spec('triton')))"

# More launches than the model without adapters, by linear: the rotation; V^T x of its own, or the columns of the input;
# for query, key and value a pass over them, because the value leaves as a view of all three.
LAUNCHES = {
    "rows": {"qkv": 2, "output": 1, "gate_up": 1, "down": 1},
    "fused": {"qkv": 3, "output": 2, "gate_up": 2, "down": 2},
    "kernel": {"qkv": 3, "output": 2, "gate_up": 2, "down": 2},
    "columns": {"qkv": 3, "output": 4, "gate_up": 3, "down": 3},
}
# More numbers written for each token by kernels that are no products: query, key and value (4608); the input of the
# attention's output with its columns (3584), where no kernel before can write it beside them; the columns themselves.
ELEMENTS = {
    "rows": {"qkv": 4608, "output": 0, "gate_up": 0, "down": 0},
    "fused": {"qkv": 4608, "output": 0, "gate_up": 0, "down": 0},
    "kernel": {"qkv": 4608, "output": 0, "gate_up": 0, "down": 0},
    "columns": {"qkv": 24, "output": 3584 + 8, "gate_up": 16, "down": 8},
}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    if subprocess.run([PYTHON, "-c", HAS_CUDA_TORCH], check=False, capture_output=True).returncode:
        pytest.skip("torch here is no CUDA build, or Triton is missing")
    done = subprocess.run(
        [PYTHON, "-m", "tests.adapters.vllm.hopper_layers"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("way", LAUNCHES)
def test_the_delta_costs_these_launches_and_passes(way: str, found: dict[str, Any]) -> None:
    for part, ways in found.items():
        base, with_delta = ways["base"], ways[way]
        assert with_delta["launches"] - base["launches"] <= LAUNCHES[way][part], f"{part}: {ways}"
        assert with_delta["elements"] - base["elements"] <= ELEMENTS[way][part], f"{part}: {ways}"
        assert with_delta["most loads"] <= 10, f"{part}: {ways}"
