"""The ways to compute `y + U S (R_t (V^T x_t))` for every token t, by name.

    auto     fused in a compiled graph, matmul without compilation or for a rank that is not worth fusing
    fused    r multiply-adds for each output, which Inductor fuses with the elementwise work around them
    matmul   one product of (T, n*r) and (n*r, out)
    kernel   as fused, but V^T x and R (V^T x) are one Triton kernel, which reads x once (CUDA)

All take x and y as they are and compute in float32 from end to end, rounded once to y's dtype: the result is within
half a unit in the last place of the exact sum, 2^-9 of it in bfloat16 and 2^-12 in float16, besides float32's own
rounding. Design decision: V^T x too is a float32 product, though x comes in the model's dtype. In 16 bits V and V^T x
would be rounded, and a strong adapter's answer would move by more than the rounding of y does.

They read what layer.install put there (AdaptedLayer). A token's matrices are read from the table by its slot;
nothing is gathered for a step beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor, nn

# A rank up to which multiply-adds move less memory than a product, whose result is stored and read again.
MAX_FUSED_RANK = 8
# Narrower blocks of outputs than this are not worth a loop.
MIN_BLOCK = 16


class AdaptedLayer(Protocol):
    """What the delta reads of a vLLM linear into which n modules are packed; factors are sharded for this rank already.

    tinylora_shrink:  (n*r, in) float32, V^T of every module, one below the other.
    tinylora_expand:  (n*r, out) float32, block diagonal of (U S)^T.
    tinylora_blocks:  (r, blocks, width) float32, (U S)^T by blocks of outputs of equal width, each of one module.
    tinylora_modules: (blocks,) int64, the module of each block.
    tinylora_table:   (slots, n*r*r) float32, R of these modules for every adapter lately seen; slot 0 is zero.
    tinylora_slots:   (max tokens,) int64, the slot of each token's adapter.
    """

    tinylora_shrink: Tensor
    tinylora_expand: Tensor
    tinylora_blocks: Tensor
    tinylora_modules: Tensor
    tinylora_table: Tensor
    tinylora_slots: Tensor
    tinylora_rank: int


Delta = Callable[[Tensor, Tensor, AdaptedLayer], Tensor]


def auto(y_TO: Tensor, x_TI: Tensor, layer: AdaptedLayer) -> Tensor:
    """(T, out), in y's dtype."""
    return (fused if torch.compiler.is_compiling() and can_fuse(layer) else matmul)(y_TO, x_TI, layer)


def fused(y_TO: Tensor, x_TI: Tensor, layer: AdaptedLayer) -> Tensor:
    """(T, out), in y's dtype."""
    return _expanded(y_TO, _rotated(x_TI, layer), layer)


def matmul(y_TO: Tensor, x_TI: Tensor, layer: AdaptedLayer) -> Tensor:
    """(T, out), in y's dtype."""
    return _multiplied(y_TO, _rotated(x_TI, layer), layer)


def kernel(y_TO: Tensor, x_TI: Tensor, layer: AdaptedLayer) -> Tensor:
    """(T, out), in y's dtype."""
    from adapters.vllm.shrink_rotate import shrink_rotate

    g_TL = shrink_rotate(x_TI, layer.tinylora_shrink, layer.tinylora_table, layer.tinylora_slots, layer.tinylora_rank)
    g_TQR = g_TL.view(x_TI.shape[0], -1, layer.tinylora_rank)
    return (_expanded if can_fuse(layer) else _multiplied)(y_TO, g_TQR, layer)


DELTAS: Mapping[str, Delta] = MappingProxyType({"auto": auto, "fused": fused, "matmul": matmul, "kernel": kernel})


def can_fuse(layer: AdaptedLayer) -> bool:
    """Whether multiply-adds are worth it for this layer."""
    return layer.tinylora_rank <= MAX_FUSED_RANK and layer.tinylora_blocks.shape[-1] >= MIN_BLOCK


def blocks_of(expand_RO: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(U S)^T of n modules, (r, out) each, by blocks of equal width: (r, blocks, width), and the module of each block.

    A block diagonal would multiply every output by n * r terms, of which all but r are zero.
    """
    width = gcd(*(module_RO.shape[1] for module_RO in expand_RO))
    counts = torch.tensor([module_RO.shape[1] // width for module_RO in expand_RO])
    joined_RO = torch.cat(list(expand_RO), dim=1)
    blocks_RHW = joined_RO.view(joined_RO.shape[0], -1, width)
    return blocks_RHW, torch.arange(len(expand_RO)).repeat_interleave(counts)


def _rotated(x_TI: Tensor, layer: AdaptedLayer) -> Tensor:
    """R (V^T x), (T, n, r) float32."""
    tokens, rank = x_TI.shape[0], layer.tinylora_rank
    h_TQR = nn.functional.linear(x_TI.float(), layer.tinylora_shrink).view(tokens, -1, 1, rank)
    r_TE = layer.tinylora_table.index_select(0, layer.tinylora_slots[:tokens])
    return (r_TE.view(tokens, -1, rank, rank) * h_TQR).sum(-1)


def _multiplied(y_TO: Tensor, g_TQR: Tensor, layer: AdaptedLayer) -> Tensor:
    """y + U S g, as one product."""
    return torch.addmm(y_TO.float(), g_TQR.flatten(1), layer.tinylora_expand).to(y_TO.dtype)


def _expanded(y_TO: Tensor, g_TQR: Tensor, layer: AdaptedLayer) -> Tensor:
    """y + U S g, block by block."""
    tokens = y_TO.shape[0]
    rank, count, width = layer.tinylora_blocks.shape
    g_THR = g_TQR if g_TQR.shape[1] == count else g_TQR.index_select(1, layer.tinylora_modules)
    y_THW = y_TO.view(tokens, count, width).float()
    for k in range(rank):
        y_THW = y_THW + g_THR[:, :, k : k + 1] * layer.tinylora_blocks[k]
    return y_THW.to(y_TO.dtype).view(tokens, count * width)
