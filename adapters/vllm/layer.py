"""The delta that a TinyLoRA adapter adds inside one vLLM linear layer.

Design decision: the layer is not wrapped; only its `quant_method` is replaced, by one that computes the delta beside
what the original computes. Every vLLM linear (packed or not, column or row parallel, quantized or not) calls
`quant_method.apply(layer, x, bias)` exactly once, before gather, all-reduce and skip-bias logic, so this one place is
right for all of them, and the names of the model's modules and parameters do not change.

delta.py has the ways to compute it; manager.py decides which adapter a token belongs to.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from adapters.vllm.adapted_layer import AdaptedLayer, LayerFactors, add_factors
from adapters.vllm.delta import Delta, Forward


class TinyLoRALinearMethod(QuantizeMethodBase):
    """A vLLM linear method that adds `U S (R (V^T x))` to the output of another one, in the way of `forward`."""

    def __init__(self, base: QuantizeMethodBase, forward: Forward) -> None:
        self.base = base
        self.forward = forward

    def create_weights(self, layer: nn.Module, *weight_args: Any, **extra_weight_attrs: Any) -> None:
        self.base.create_weights(layer, *weight_args, **extra_weight_attrs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.base.process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (T, in) -> (T, out) in x's dtype; also (1, T, in), as the transformers backend calls it."""
        y_TO = self.forward(self.base, cast(AdaptedLayer, layer), x.reshape(-1, x.shape[-1]), bias)
        return y_TO.reshape(*x.shape[:-1], y_TO.shape[-1])

    def __getattr__(self, name: str) -> Any:
        # Models and kernels ask the linear method about its weights, which are those of `base`.
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def install(
    layer: nn.Module, factors: LayerFactors, table_SE: Tensor, slots_T: Tensor, delta: Delta, dtype: torch.dtype
) -> None:
    """Make `layer`, of a model in `dtype`, add the deltas of adapters to its output, in the way of `delta`.

    `table_SE` and `slots_T` are as AdaptedLayer says.
    """
    on_tensor_cores = factors.shrink_LI.is_cuda and dtype in (torch.bfloat16, torch.float16)
    add_factors(layer, factors, table_SE, slots_T, dtype if on_tensor_cores else None)
    linear: Any = layer
    # The delta is computed from the unquantized input, so no layer before may quantize it.
    linear.requires_unquantized_input = True
    base = linear.quant_method
    linear.quant_method = TinyLoRALinearMethod(base, delta(base, cast(AdaptedLayer, layer)))
