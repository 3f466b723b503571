"""On which GPUs a worker has its model: on one if it fits there, else its layers one after the other over as many as
it takes.

Each GPU then has some layers, and a pass goes through them in turn, as accelerate's hooks move it along: that holds
larger models, and is no faster. Weights are read straight onto their GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import get_balanced_memory, infer_auto_device_map
from transformers import AutoModelForCausalLM

from server.training.worker.memory import weights_bytes

# Of what a GPU has left, for weights: passes need the rest.
WEIGHTS_SHARE = 0.9


class TooLarge(Exception):
    """The model does not fit on the worker's GPUs. The message is for the operator."""


def place(config: Any, dtype: torch.dtype, available: Sequence[int]) -> dict[str, int]:
    """Which part of the model goes to which GPU: names of modules, and numbers of GPUs; {"": n} for all on one.

    config: of a causal LM (transformers' PreTrainedConfig). available: bytes that the worker may take of each GPU.

    Raises TooLarge when the GPUs together are too small.
    """
    weights = weights_bytes(config, dtype)
    freest = sorted(range(len(available)), key=lambda gpu: -available[gpu])
    if weights <= WEIGHTS_SHARE * available[freest[0]]:
        return {"": freest[0]}
    for count in range(2, len(available) + 1):
        found = _spread(config, dtype, {gpu: int(WEIGHTS_SHARE * available[gpu]) for gpu in sorted(freest[:count])})
        if found is not None:
            return found
    sizes = ", ".join(f"{size / 2**30:.1f}" for size in available)
    raise TooLarge(
        f"the weights take {weights / 2**30:.1f} GiB, and {WEIGHTS_SHARE:.0%} of {sizes} GiB of GPU memory have no "
        "room for them: end what else uses the GPUs, give this worker more of them (CUDA_VISIBLE_DEVICES) or a higher "
        "limit (tinylora worker --memory-gib), or train a smaller model"
    )


def _spread(config: Any, dtype: torch.dtype, most: Mapping[int, int]) -> dict[str, int] | None:
    """Whole layers on each GPU, in order and about as many bytes on each; None when they do not fit."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    layers = list(model._no_split_modules or ())
    balanced = get_balanced_memory(model, dict(most), no_split_module_classes=layers, dtype=dtype)
    # Both are tried: as many bytes on each may leave too few places for whole layers.
    for budget in (balanced, dict(most)):
        found = infer_auto_device_map(model, budget, no_split_module_classes=layers, dtype=dtype)
        if set(found.values()) <= set(most):
            return dict(found)
    return None
