"""Factors in rows below, or in columns beside, the weight of a linear, so that its product computes them too.

    rows:     x [W ; V^T]^T         = [W x | V^T x]
    columns:  [x | g] [W | U S]^T   = W x + U S g

In bfloat16 a factor is two matrices whose sum it is (adapted_layer.in_two_parts). Both sides of `columns` are, and the
product of the two small parts, 2^-18 of the whole, is left out: [x | g1 | g2 | g1] with [W | (U S)1 | (U S)1 | (U S)2].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.vllm.adapted_layer import AdaptedLayer, BaseMethod, in_two_parts, padded, two_parts


def can_append(base: BaseMethod, layer: AdaptedLayer) -> bool:
    """Whether the weight is one plain matrix, and V^T x and R (V^T x) are in the range of its dtype.

    float16 ends at 65504. An infinite V^T x would spoil tokens without an adapter too, whose R is zero.
    """
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    return isinstance(base, UnquantizedLinearMethod) and layer.weight.dtype in (torch.float32, torch.bfloat16)


def append_rows(base: BaseMethod, layer: AdaptedLayer) -> None:
    """Put V^T in rows below the weight of `layer`, and zeros below its bias."""
    weight_OI = _weight(base, layer)
    rows_PI = padded(layer.tinylora_shrink, 0)
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
    weight_OI, expand_OL = _weight(base, layer), layer.tinylora_expand.t()
    if weight_OI.dtype == torch.bfloat16:
        high_OL, low_OL = two_parts(expand_OL, weight_OI.dtype)
        expand_OL = torch.cat([high_OL, high_OL, low_OL], dim=1)
    _replace_weight(base, layer, torch.cat([weight_OI, padded(expand_OL, 1)], dim=1))


def with_columns(x_TI: Tensor, g_TL: Tensor) -> Tensor:
    """What is multiplied with such a weight: x (T, in) with g (T, n*r) float32 beside it."""
    if x_TI.dtype == torch.bfloat16:
        high_TL, low_TL = two_parts(g_TL, x_TI.dtype)
        g_TL = torch.cat([high_TL, low_TL, high_TL], dim=1)
    return torch.cat([x_TI, padded(g_TL, 1)], dim=1)


def _weight(base: BaseMethod, layer: AdaptedLayer) -> Tensor:
    """W (out, in). vLLM's kernels for CPUs keep only a packed form, from which a product with ones reads it back."""
    if layer.weight.numel():
        return layer.weight.detach()
    features = layer.tinylora_shrink.shape[1]
    return base.apply(layer, torch.eye(features, dtype=layer.weight.dtype, device=layer.weight.device)).t()


def _replace_weight(base: BaseMethod, layer: AdaptedLayer, weight: Tensor) -> None:
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    base.process_weights_after_loading(layer)
