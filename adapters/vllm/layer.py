"""The delta that a TinyLoRA adapter adds inside one vLLM linear layer.

Design decision: the layer is not wrapped; only its `quant_method` is replaced, by one that calls the original and adds
the delta to its output. Every vLLM linear (packed or not, column or row parallel, quantized or not) calls
`quant_method.apply(layer, x, bias)` exactly once, before gather, all-reduce and skip-bias logic, so this one place is
right for all of them, and the names of the model's modules and parameters do not change.

The shared factors and the matrices of the batch's tokens are buffers of the layer: compiled graphs take them as inputs
and never contain their values or addresses. manager.py decides which adapter a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

# Up to this many rank-1 terms the expand step is written as multiply-adds, which inductor fuses with the elementwise
# work around it; beyond, a matrix product moves less memory.
MAX_FUSED_TERMS = 24


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """The factors of the n modules packed into one vLLM linear, already sharded for this tensor-parallel rank.

    shrink_LI: V^T of every packed module, one below the other, (n*r, in), float32.
    expand_LO: block diagonal of (U S)^T, (n*r, out), float32.
    rank:      r.
    """

    shrink_LI: Tensor
    expand_LO: Tensor
    rank: int


class AdaptedLayer(Protocol):
    """A vLLM linear with what `install` adds to it."""

    tinylora_shrink: Tensor
    tinylora_expand: Tensor
    tinylora_matrices: Tensor
    tinylora_rank: int
    requires_unquantized_input: bool
    quant_method: QuantizeMethodBase


class TinyLoRALinearMethod(QuantizeMethodBase):
    """A vLLM linear method that adds `U S (R h)`, h = V^T x, to the output of another one."""

    def __init__(self, base: QuantizeMethodBase) -> None:
        self.base = base

    def create_weights(self, layer: nn.Module, *weight_args: Any, **extra_weight_attrs: Any) -> None:
        self.base.create_weights(layer, *weight_args, **extra_weight_attrs)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        self.base.process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (T, in) -> (T, out) in x's dtype; also (1, T, in), as the transformers backend calls it."""
        y: Tensor = self.base.apply(layer, x, bias)
        adapted = cast(AdaptedLayer, layer)
        flat = add_delta(
            y.reshape(-1, y.shape[-1]),
            x.reshape(-1, x.shape[-1]),
            adapted.tinylora_shrink,
            adapted.tinylora_expand,
            adapted.tinylora_matrices,
            adapted.tinylora_rank,
        )
        return flat.reshape(y.shape)

    def __getattr__(self, name: str) -> Any:
        # Models and kernels ask the linear method about its weights, which are those of `base`.
        if name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def install(layer: nn.Module, factors: LayerFactors, matrices_TE: Tensor) -> None:
    """Make `layer` add the deltas of adapters to its output.

    matrices_TE: (max tokens, n*r*r) float32, a buffer that holds, before each forward, R of every token's adapter for
                 the modules of this layer; zero where a token has none.
    """
    for name, tensor in (
        ("tinylora_shrink", factors.shrink_LI),
        ("tinylora_expand", factors.expand_LO),
        ("tinylora_matrices", matrices_TE),
    ):
        layer.register_buffer(name, tensor, persistent=False)
    adapted = cast(AdaptedLayer, layer)
    adapted.tinylora_rank = factors.rank
    # The delta is computed from the unquantized input, so no layer before may quantize it.
    adapted.requires_unquantized_input = True
    adapted.quant_method = TinyLoRALinearMethod(adapted.quant_method)


def add_delta(
    y_TO: Tensor,
    x_TI: Tensor,
    shrink_LI: Tensor,
    expand_LO: Tensor,
    matrices_TE: Tensor,
    rank: int,
) -> Tensor:
    """y + U S (R_t (V^T x_t)) for every token t: (T, out) in y's dtype, computed in float32 and rounded once.

    For the given x (T, in) and y (T, out) the result is within half a unit in the last place of the exact sum (2^-9 of
    it in bfloat16, 2^-12 in float16), besides float32's own rounding.

    Design decision: V^T x is a float32 product too, not one in the model's dtype, which would round V and V^T x and so
    change a strong adapter's answer by more than the rounding of y does. It has r columns: on a CPU it takes no longer
    in float32; on a GPU it cannot use the 16-bit tensor cores, and x is converted on the way.
    """
    tokens, terms = x_TI.shape[0], expand_LO.shape[0]
    h_TQR = nn.functional.linear(x_TI.float(), shrink_LI).view(tokens, terms // rank, 1, rank)
    matrices_TQRR = matrices_TE[:tokens].reshape(tokens, terms // rank, rank, rank)
    g_TL = (matrices_TQRR * h_TQR).sum(-1).view(tokens, terms)
    if not torch.compiler.is_compiling() or terms > MAX_FUSED_TERMS:
        return torch.addmm(y_TO.float(), g_TL, expand_LO).to(y_TO.dtype)
    out_TO = y_TO.float()
    for k in range(terms):
        out_TO = out_TO + g_TL[:, k : k + 1] * expand_LO[k]
    return out_TO.to(y_TO.dtype)
