"""The delta that a TinyLoRA adapter adds inside one vLLM linear layer.

Design decision: the layer is not wrapped; only its `quant_method` is replaced, by one that calls the original and adds
the delta to its output. Every vLLM linear (packed or not, column or row parallel, quantized or not) calls
`quant_method.apply(layer, x, bias)` exactly once, before gather, all-reduce and skip-bias logic, so this one place is
right for all of them, and the names of the model's modules and parameters do not change.

The shared factors, the table of matrices and the slots of the batch's tokens are buffers of the layer: compiled graphs
take them as inputs and never contain their values or addresses. delta.py computes the delta; manager.py decides which
adapter a token belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

from adapters.vllm.delta import AdaptedLayer, Delta, blocks_of


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """The factors of the n modules packed into one vLLM linear, already sharded for this tensor-parallel rank.

    shrink_LI: V^T of every packed module, one below the other, (n*r, in), float32.
    expand_RO: (U S)^T of each of them, (r, out) float32.
    """

    shrink_LI: Tensor
    expand_RO: Sequence[Tensor]

    @property
    def rank(self) -> int:
        return self.expand_RO[0].shape[0]


class TinyLoRALinearMethod(QuantizeMethodBase):
    """A vLLM linear method that adds `U S (R h)`, h = V^T x, to the output of another one."""

    def __init__(self, base: QuantizeMethodBase, delta: Delta) -> None:
        self.base = base
        self.delta = delta

    def create_weights(self, layer: nn.Module, *weight_args: Any, **extra_weight_attrs: Any) -> None:
        self.base.create_weights(layer, *weight_args, **extra_weight_attrs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.base.process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (T, in) -> (T, out) in x's dtype; also (1, T, in), as the transformers backend calls it."""
        y: Tensor = self.base.apply(layer, x, bias)
        adapted = cast(AdaptedLayer, layer)
        flat = self.delta(y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), adapted)
        return flat.reshape(y.shape)

    def __getattr__(self, name: str) -> Any:
        # Models and kernels ask the linear method about its weights, which are those of `base`.
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def install(layer: nn.Module, factors: LayerFactors, table_SE: Tensor, slots_T: Tensor, delta: Delta) -> None:
    """Make `layer` add the deltas of adapters to its output. `table_SE` and `slots_T` are as AdaptedLayer says."""
    blocks_RHW, modules_H = blocks_of(factors.expand_RO)
    device = factors.shrink_LI.device
    for name, tensor in (
        ("tinylora_shrink", factors.shrink_LI),
        ("tinylora_expand", torch.block_diag(*factors.expand_RO)),
        ("tinylora_blocks", blocks_RHW),
        ("tinylora_modules", modules_H.to(device)),
        ("tinylora_table", table_SE),
        ("tinylora_slots", slots_T),
    ):
        layer.register_buffer(name, tensor, persistent=False)
    linear: Any = layer
    linear.tinylora_rank = factors.rank
    # The delta is computed from the unquantized input, so no layer before may quantize it.
    linear.requires_unquantized_input = True
    linear.quant_method = TinyLoRALinearMethod(linear.quant_method, delta)
