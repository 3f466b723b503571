"""What the repair of seeded requests on a CPU holds on to in vLLM."""

from __future__ import annotations

import inspect

import pytest
import torch

vllm = pytest.importorskip("vllm")

from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # noqa: E402


def test_vllm_still_rewinds_the_generators_of_partly_read_prompts_and_cpus_still_cannot() -> None:
    source = inspect.getsource(GPUModelRunner._bookkeeping_sync)
    assert "self.discard_request_mask.np" in source and "self.input_batch.generators.get(" in source, (
        "vLLM treats the seeds of partly read prompts in another way now: adapters/vllm/cpu_seeds.py has no effect or "
        "is not needed any more"
    )
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()
