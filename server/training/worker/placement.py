"""On which GPUs a worker has its model: on one if it fits there, else its layers one after the other over as many as
it takes.

Each GPU then has some layers, and a pass goes through them in turn, as accelerate's hooks move it along: that holds
larger models, and is no faster. Weights are read straight onto their GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import get_balanced_memory, infer_auto_device_map
from torch import nn

from adapters.factors.transformers_model import auto_class
from server.core.host_memory import gib
from server.training.worker.base_model import load_base_model
from server.training.worker.device_memory import ADVICE, CudaMemory, DeviceMemory
from server.training.worker.memory import weights_bytes
from server.training.worker.pass_size import DoesNotFit, check_weights

# Of what a GPU has left, for weights: passes need the rest.
WEIGHTS_SHARE = 0.9


def place(config: Any, dtype: torch.dtype, available: Sequence[int]) -> dict[str, int]:
    """Which part of the model goes to which GPU: names of modules, and numbers of GPUs; {"": n} for all on one.

    config: of a causal LM (transformers' PreTrainedConfig). available: bytes that the worker may take of each GPU.

    Raises DoesNotFit when the GPUs together are too small.
    """
    weights = weights_bytes(config, dtype)
    freest = sorted(range(len(available)), key=lambda gpu: -available[gpu])
    if _fits(weights, available[freest[0]]):
        return {"": freest[0]}
    for count in range(2, len(available) + 1):
        found = _spread(config, dtype, {gpu: int(WEIGHTS_SHARE * available[gpu]) for gpu in sorted(freest[:count])})
        if found is not None:
            return found
    sizes = ", ".join(gib(size, 2) for size in available)
    raise DoesNotFit(
        f"The weights of the model take {gib(weights, 2)}, and {sizes} are left on the worker's GPUs, a tenth of it "
        f"for passes: {ADVICE}, or give it more GPUs (CUDA_VISIBLE_DEVICES)."
    )


def load_model(directory: Path, config: Any, dtype: torch.dtype, memory: DeviceMemory) -> nn.Module:
    """The model in `directory`, ready for passes, in `memory`, which then stands for the GPUs that it is on.

    Raises DoesNotFit when the weights are larger than what is left.
    """
    if not isinstance(memory, CudaMemory):
        check_weights(config, dtype, memory)
        return load_base_model(directory, dtype)
    available = [memory.left_on(0)]
    if not _fits(weights_bytes(config, dtype), available[0]):
        # Only now, because to ask a GPU takes some of its memory.
        available += map(memory.left_on, range(1, torch.cuda.device_count()))
    placed = place(config, dtype, available)
    memory.gpus = sorted(set(placed.values()))
    return load_base_model(directory, dtype, device_map=placed)


def _fits(weights: int, available: int) -> bool:
    return weights <= WEIGHTS_SHARE * available


def _spread(config: Any, dtype: torch.dtype, most: Mapping[int, int]) -> dict[str, int] | None:
    """Whole layers on each GPU, in order and about as many bytes on each; None when they do not fit."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=dtype)
    model.tie_weights()
    layers = list(model._no_split_modules or ())
    balanced = get_balanced_memory(model, dict(most), no_split_module_classes=layers, dtype=dtype)
    # Both are tried: as many bytes on each may leave too few places for whole layers.
    for budget in (balanced, dict(most)):
        found = infer_auto_device_map(model, budget, no_split_module_classes=layers, dtype=dtype)
        if set(found.values()) <= set(most):
            return dict(found)
    return None
