"""y + U S g of all tokens: float32 from end to end, rounded once to the dtype of y."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.vllm.adapted_layer import AdaptedLayer

# A rank up to which multiply-adds move less memory than a product, whose result is stored and read again.
MAX_FUSED_RANK = 8
# Narrower blocks of outputs than this are not worth a loop.
MIN_BLOCK = 16


def can_fuse(layer: AdaptedLayer) -> bool:
    """Whether multiply-adds are worth it for this layer."""
    return layer.tinylora_rank <= MAX_FUSED_RANK and layer.tinylora_blocks.shape[-1] >= MIN_BLOCK


def added(y_TO: Tensor, g_THR: Tensor, layer: AdaptedLayer) -> Tensor:
    """By r multiply-adds for each output; g (T, blocks, r) is that of each block of outputs.

    One expression over a view of y, because Inductor fuses that with what comes after; of parts that are put together
    it would make a pass of their own. The last dimension of y must be dense.
    """
    rank, count, width = layer.tinylora_blocks.shape
    y_THW = y_TO.view(-1, count, width).float()
    for k in range(rank):
        y_THW = y_THW + g_THR.narrow(2, k, 1) * layer.tinylora_blocks.select(0, k)
    return y_THW.to(y_TO.dtype).view(-1, count * width)


def added_by_product(y_TO: Tensor, g_TQR: Tensor, layer: AdaptedLayer) -> Tensor:
    """By one product; g (T, n, r) is that of each module."""
    return torch.addmm(y_TO.float(), g_TQR.flatten(1), layer.tinylora_expand).to(y_TO.dtype)
