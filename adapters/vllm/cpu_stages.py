"""Lets vLLM's CPU backend run a model in pipeline stages without compilation.

A stage copies what the stage before computed into buffers that vLLM makes in its warm-up. Without compilation there is
no warm-up on a CPU, and the first request ends the engine. Here the buffers are made when the model is loaded.

This has nothing to do with TinyLoRA, and is not used on a GPU, where there always is a warm-up.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from vllm.distributed.parallel_state import get_pp_group


def make_buffers_of_stages(runner: Any) -> None:
    """Wrap `load_model` of the CPU's model runner class. Calling it again does nothing."""
    original = runner.load_model
    if getattr(original, "is_tinylora_seam", False):
        return

    @wraps(original)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if not get_pp_group().is_first_rank:
            with torch.inference_mode():
                self.intermediate_tensors = self.model.make_empty_intermediate_tensors(
                    batch_size=self.max_num_tokens, dtype=self.model_config.dtype, device=self.device
                )

    load_model.is_tinylora_seam = True  # type: ignore[attr-defined]
    runner.load_model = load_model
