"""Has vLLM record its CUDA graphs once, and not again for steps with adapters.

For an engine with LoRA vLLM's second model runner records all graphs for steps without an adapter, and again for steps
with some, because its own kernels have nothing to do in the former. Ours are the same in both. A second set takes as
long again at every start, and as much of the GPU's memory, which the KV cache then lacks.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

# Numbers of adapters in a step for which graphs are recorded.
ONE_CASE = [0]


def record_graphs_once(mixin: Any, is_ours: Any) -> None:
    """Wrap `load_lora_model` of vLLM's LoRAModelRunnerMixin, which comes before graphs are chosen. `is_ours` says of a
    VllmConfig whether our adapters are applied.
    """
    load_lora_model = mixin.load_lora_model

    @wraps(load_lora_model)
    def load(self: Any, model: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        if is_ours(vllm_config) and hasattr(self, "lora_capture_cases"):
            # Here, because the runner has imported it, and other processes need not.
            from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

            self.lora_capture_cases = ONE_CASE
            use_the_one_case(CudaGraphManager)
        return load_lora_model(self, model, vllm_config, *args, **kwargs)

    mixin.load_lora_model = load


def use_the_one_case(manager: Any) -> None:
    """Have vLLM's CudaGraphManager take the graphs of its only case for any number of adapters, where it would take
    none. Calling it again does nothing."""
    original = manager._resolve_effective_loras
    if getattr(original, "is_tinylora_seam", False):
        return

    @wraps(original)
    def resolve(self: Any, num_active_loras: int) -> int:
        if self.lora_capture_cases == ONE_CASE:
            return ONE_CASE[0]
        return int(original(self, num_active_loras))

    resolve.is_tinylora_seam = True  # type: ignore[attr-defined]
    manager._resolve_effective_loras = resolve
