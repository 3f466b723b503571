"""vLLM's second model runner (V2), whose Triton kernels run in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import Tiny
from tests.engine.test_engine_modes import assert_answers_are_right

TRITON = Path(sys.prefix) / "triton"
INTERPRETER = Path(__file__).with_name("triton_interpreter")

pytestmark = pytest.mark.engine


@pytest.mark.skipif(not TRITON.is_dir(), reason="Triton is not installed: make triton")
@pytest.mark.timeout(400)
def test_v2_runner_gives_every_request_its_adapter(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # For the engine's processes: this one has imported vLLM, without Triton.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(INTERPRETER), str(TRITON), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    running = llama.engine(max_num_batched_tokens=64, enable_prefix_caching=True)
    try:
        assert_answers_are_right(llama, running)
    finally:
        running.close()
    assert "Using V2 Model Runner" in "".join(capfd.readouterr()), "vLLM chose its first model runner"
