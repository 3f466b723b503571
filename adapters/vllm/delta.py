"""The ways to compute `W x + U S (R_t (V^T x_t))` for every token t, by name.

    auto     rows on a GPU, fused elsewhere
    fused    W x, then r multiply-adds for each output, which Inductor fuses with the elementwise work around them;
             without compilation, or for a rank that is not worth it, as matmul
    matmul   W x, then one product of (T, n*r) and (n*r, out)
    kernel   as fused, but V^T x is a Triton kernel, which reads x once (CUDA)
    rows     as fused, but V^T stands in rows below W: one product gives W x and V^T x
    columns  U S stands in columns beside W: the product with x and R (V^T x), side by side, is the whole

V^T x, R (V^T x) and the sum are computed in float32, or nearly so: on a GPU, 16-bit models multiply with V^T, and
`columns` with U S, as the sum of two 16-bit matrices (adapters.apply.two_parts), and products are summed in float32.
So the result is within half a unit in the last place of the exact sum, 2^-9 of it in bfloat16 and 2^-12 in float16,
besides the rounding of W x, 2^-15 of what the adapter adds, and float32's own rounding. `columns` does not even round
W x. In `rows`, V^T x leaves the product in the model's dtype: each of its numbers is off by up to half a unit, and what
the adapter adds with it. Log-probabilities of a strong adapter are then 1.2 times as far from float32's as PEFT's are
in the same dtype, and with the other ways as far (tests/engine/test_sixteen_bits.py).

A token's matrices are read from the table by its slot; nothing is gathered for a step beforehand. A weight that is
quantized or float16 gets no rows or columns (appended.can_append): there, `rows` and `columns` are `fused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from adapters.vllm.adapted_layer import AdaptedLayer, BaseMethod
from adapters.vllm.appended import append_columns, append_rows, can_append, rows_of, with_columns
from adapters.vllm.expand import added, added_by_product, can_fuse
from adapters.vllm.rotate import rotated, rotated_by_kernel
from adapters.vllm.shrink import shrunk, shrunk_by_kernel

Forward = Callable[[BaseMethod, AdaptedLayer, Tensor, Tensor | None], Tensor]
"""(base, layer, x (T, in), bias) -> (T, out) in the dtype of W x."""

Delta = Callable[[BaseMethod, AdaptedLayer], Forward]
"""Prepares a layer, once, and returns how its output is computed from then on."""


def auto(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    return rows(base, layer) if layer.tinylora_shrink.is_cuda else _fused


def fused(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    return _fused


def matmul(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    return _matmul


def kernel(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    return _kernel


def rows(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    if not can_append(base, layer):
        return _fused
    append_rows(base, layer)
    return _rows


def columns(base: BaseMethod, layer: AdaptedLayer) -> Forward:
    if not can_append(base, layer):
        return _fused
    append_columns(base, layer)
    return _columns


DELTAS: Mapping[str, Delta] = MappingProxyType(
    {"auto": auto, "fused": fused, "matmul": matmul, "kernel": kernel, "rows": rows, "columns": columns}
)


def _fused(base: BaseMethod, layer: AdaptedLayer, x_TI: Tensor, bias: Tensor | None) -> Tensor:
    y_TO = base.apply(layer, x_TI, bias)
    return _expanded(y_TO, *shrunk(x_TI, layer), layer, rotated)


def _matmul(base: BaseMethod, layer: AdaptedLayer, x_TI: Tensor, bias: Tensor | None) -> Tensor:
    y_TO = base.apply(layer, x_TI, bias)
    return added_by_product(y_TO, rotated(*shrunk(x_TI, layer), layer), layer)


def _kernel(base: BaseMethod, layer: AdaptedLayer, x_TI: Tensor, bias: Tensor | None) -> Tensor:
    y_TO = base.apply(layer, x_TI, bias)
    return _expanded(y_TO, *shrunk_by_kernel(x_TI, layer), layer, rotated_by_kernel)


def _rows(base: BaseMethod, layer: AdaptedLayer, x_TI: Tensor, bias: Tensor | None) -> Tensor:
    both_TN = base.apply(layer, x_TI, None if bias is None else layer.tinylora_bias)
    return _expanded(*rows_of(both_TN, layer), layer, rotated)


def _columns(base: BaseMethod, layer: AdaptedLayer, x_TI: Tensor, bias: Tensor | None) -> Tensor:
    g_TQR = rotated(*shrunk(x_TI, layer), layer)
    return base.apply(layer, with_columns(x_TI, g_TQR.flatten(1)), bias)


def _expanded(y_TO: Tensor, h_TP: Tensor, parts: int, layer: AdaptedLayer, rotate: Callable[..., Tensor]) -> Tensor:
    """y + U S (R h)."""
    if torch.compiler.is_compiling() and can_fuse(layer):
        return added(y_TO, rotate(h_TP, parts, layer, layer.tinylora_modules), layer)
    return added_by_product(y_TO, rotate(h_TP, parts, layer), layer)
