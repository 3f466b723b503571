"""What the repair of pipeline stages on a CPU holds on to in vLLM."""

from __future__ import annotations

import inspect

import pytest

vllm = pytest.importorskip("vllm")

from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # noqa: E402
from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # noqa: E402


def test_vllm_still_makes_the_buffers_of_a_stage_in_a_warm_up_that_cpus_leave_out() -> None:
    source = inspect.getsource(GPUModelRunner._dummy_run)
    assert "if self.intermediate_tensors is None:" in source and "self.model.make_empty_intermediate_tensors(" in source
    warm_up = inspect.getsource(CPUModelRunner.warming_up_model)
    assert "CompilationMode.NONE:\n            return" in warm_up, (
        "vLLM warms a CPU up without compilation too: adapters/vllm/cpu_stages.py is not needed any more"
    )
