"""Lets a mixture of experts run as without adapters, which are not applied to experts.

For an engine with LoRA vLLM runs experts by kernels that could add a LoRA to each. They are slower than its others, and
there are none for a CPU, where the first request would end the engine.
"""

from __future__ import annotations

from functools import wraps
from typing import Any


def keep_expert_kernels(fused_moe_layer: Any, is_ours: Any) -> None:
    """Wrap the class FusedMoEConfig in vLLM's module of that name. `is_ours` says so of a VllmConfig.

    Calling it again does nothing.
    """
    original = fused_moe_layer.FusedMoEConfig
    if getattr(original, "is_tinylora_seam", False):
        return

    @wraps(original, updated=())
    def config(*args: Any, is_lora_enabled: bool = False, **kwargs: Any) -> Any:
        ours = is_ours(fused_moe_layer.get_current_vllm_config())
        return original(*args, is_lora_enabled=is_lora_enabled and not ours, **kwargs)

    config.is_tinylora_seam = True  # type: ignore[attr-defined]
    fused_moe_layer.FusedMoEConfig = config
