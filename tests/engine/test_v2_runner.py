"""vLLM's second model runner (V2), whose Triton kernels run in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRITON = Path(sys.prefix) / "triton"
INTERPRETER = Path(__file__).with_name("triton_interpreter")

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("delta", "engine"),
    [("kernel", {}), pytest.param("auto", {"pipeline_parallel_size": 2}, id="pipeline")],
)
@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
@pytest.mark.timeout(600)
def test_v2_runner_gives_every_request_its_adapter(delta: str, engine: dict[str, int]) -> None:
    """The tests of answers again, in a process of its own: this one may have imported vLLM, without Triton."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(INTERPRETER), str(TRITON), os.environ.get("PYTHONPATH", "")]),
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "TINYLORA_TEST_DELTA": delta,
        "TINYLORA_TEST_ENGINE": json.dumps(engine),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-s", "tests/engine/test_answers.py"]
    done = subprocess.run(
        [*command, "-k", "batch_of_32 or prefilled or prefix_cache"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-5000:]
    assert "Using V2 Model Runner" in done.stdout, "vLLM chose its first model runner"
