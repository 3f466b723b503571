"""Has vLLM record its CUDA graphs once, and not again for steps with adapters.

For an engine with LoRA vLLM's model runners record all graphs for steps without an adapter, and again for steps with
some, because its own kernels have nothing to do in the former. Ours are the same in both. A second set takes as long
again at every start, and as much of the GPU's memory, which the KV cache then lacks.

The second runner has its cases in `lora_capture_cases` and its graphs in a CudaGraphManager, the first has both in a
CudagraphDispatcher.
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
        if is_ours(vllm_config):
            # Imported here, because the runner has imported them, and other processes need not.
            if hasattr(self, "lora_capture_cases"):
                from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

                self.lora_capture_cases = ONE_CASE
                use_the_one_case(CudaGraphManager)
            else:
                from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher

                dispatch_the_one_case(CudagraphDispatcher, is_ours)
        return load_lora_model(self, model, vllm_config, *args, **kwargs)

    mixin.load_lora_model = load


def use_the_one_case(manager: Any) -> None:
    """Have the second runner's CudaGraphManager take the graphs of its only case for any number of adapters, where it
    would take none. Calling it again does nothing."""
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


def dispatch_the_one_case(dispatcher: Any, is_ours: Any) -> None:
    """Have the first runner's CudagraphDispatcher list graphs for that case alone, and find them for any number of
    adapters. Calling it again does nothing."""
    cases, descriptor = dispatcher._get_lora_cases, dispatcher._create_padded_batch_descriptor
    if getattr(cases, "is_tinylora_seam", False):
        return

    @wraps(cases)
    def one_case(self: Any) -> list[int]:
        return ONE_CASE if is_ours(self.vllm_config) else list(cases(self))

    @wraps(descriptor)
    def of_the_one_case(
        self: Any, num_tokens: int, uniform_decode: bool, has_lora: bool, num_active_loras: int = 0
    ) -> Any:
        if is_ours(self.vllm_config):
            has_lora, num_active_loras = False, ONE_CASE[0]
        return descriptor(self, num_tokens, uniform_decode, has_lora, num_active_loras)

    one_case.is_tinylora_seam = True  # type: ignore[attr-defined]
    dispatcher._get_lora_cases, dispatcher._create_padded_batch_descriptor = one_case, of_the_one_case
