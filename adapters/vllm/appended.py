"""Factors in rows below, or in columns beside, the weight of a linear, so that its product computes them too.

    rows:     x [W ; V^T]^T         = [W x | V^T x]
    columns:  [x | g] [W | U S]^T   = W x + U S g

In bfloat16 the rows are V^T in two parts (adapted_layer.in_two_parts), and the columns are products of two parts on
both sides (adapters.apply.thin_product).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.apply.thin_product import kept, widened
from adapters.apply.two_parts import padded_to_8
from adapters.vllm.adapted_layer import AdaptedLayer, BaseMethod, in_two_parts


def can_append(base: BaseMethod, layer: AdaptedLayer) -> bool:
    """Whether the weight is one plain matrix, and V^T x and R (V^T x) are in the range of its dtype.

    float16 ends at 65504. An infinite V^T x would spoil tokens without an adapter too, whose R is zero. Subclasses of
    vLLM's plain method have kernels that were chosen for the shape of the weight.
    """
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    return type(base) is UnquantizedLinearMethod and layer.weight.dtype in (torch.float32, torch.bfloat16)


def append_rows(base: BaseMethod, layer: AdaptedLayer) -> None:
    """Put V^T in rows below the weight of `layer`, and zeros below its bias."""
    weight_OI = _weight(base, layer)
    rows_PI = padded_to_8(layer.tinylora_shrink, 0)
    if weight_OI.dtype == torch.bfloat16:
        rows_PI = in_two_parts(layer.tinylora_shrink, weight_OI.dtype)
    if layer.bias is not None:
        layer.tinylora_bias = nn.functional.pad(layer.bias.detach(), (0, len(rows_PI)))
    _replace_weight(base, layer, torch.cat([weight_OI, rows_PI]))


def rows_of(both_TN: Tensor, layer: AdaptedLayer) -> tuple[Tensor, Tensor, int]:
    """Of the product with such a weight, views: W x (T, out), and V^T x (T, P) in parts side by side; how many."""
    outs = layer.tinylora_expand.shape[1]
    below_TP = both_TN.narrow(1, outs, both_TN.shape[1] - outs)
    return both_TN.narrow(1, 0, outs), below_TP, 2 if both_TN.dtype == torch.bfloat16 else 1


def append_columns(base: BaseMethod, layer: AdaptedLayer) -> None:
    """Put U S in columns beside the weight of `layer`."""
    weight_OI = _weight(base, layer)
    columns_KO = padded_to_8(kept(layer.tinylora_expand, weight_OI.dtype), 0)
    _replace_weight(base, layer, torch.cat([weight_OI, columns_KO.t()], dim=1))


def with_columns(x_TI: Tensor, g_TL: Tensor) -> Tensor:
    """What is multiplied with such a weight: x (T, in) with g (T, n*r) float32 beside it."""
    return torch.cat([x_TI, padded_to_8(widened(g_TL, x_TI.dtype), 1)], dim=1)


def _weight(base: BaseMethod, layer: AdaptedLayer) -> Tensor:
    """W (out, in). vLLM's kernels for CPUs keep only a packed form, from which a product with ones reads it back."""
    if layer.weight.numel():
        return layer.weight.detach()
    features = layer.tinylora_shrink.shape[1]
    return base.apply(layer, torch.eye(features, dtype=layer.weight.dtype, device=layer.weight.device)).t()


def _replace_weight(base: BaseMethod, layer: AdaptedLayer, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    base.process_weights_after_loading(layer)
