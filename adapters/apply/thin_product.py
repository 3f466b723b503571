"""Products of activations with thin matrices (r rows, r small), as exact in 16 bits as in float32.

A float32 number is the sum of two 16-bit numbers to 2^-16 of it (2^-21 in float16): its rounding, `high`, and the
rounding of the rest, `low`. So a thin matrix B is kept as the rows (high, high, low), and the numbers g that it is
multiplied by become the columns (high, low, high): one product of 16-bit matrices, which adds in float32, is then
g B but for low times low. The rows are padded to a multiple of 8, which tensor cores want.

Design decision: rounding B and g to 16 bits would save nothing, because activations are what is read and written, and
would move the delta of an adapter by as much as the rounding of activations does. The serving engine computes it in
float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ALIGNMENT = 8


def kept(thin_RN: Tensor, dtype: torch.dtype) -> Tensor:
    """A thin matrix, (r, N) float32, as the other functions take it: of `dtype`, that of the activations, (K, N)."""
    if dtype == torch.float32:
        return thin_RN.contiguous()
    high_RN = thin_RN.to(dtype)
    low_RN = (thin_RN - high_RN).to(dtype)
    rows = 3 * len(thin_RN)
    return nn.functional.pad(torch.cat([high_RN, high_RN, low_RN]), (0, 0, 0, -rows % _ALIGNMENT)).contiguous()


def project(x_TN: Tensor, thin_KN: Tensor, rank: int) -> Tensor:
    """x B^T, (T, r) float32; `thin_KN` is what `kept` made of B."""
    if x_TN.dtype == torch.float32:
        return x_TN @ thin_KN.mT
    if x_TN.device.type == "cpu":  # where a product of 16-bit matrices is rounded to 16 bits
        thin_RN: Tensor = thin_KN[rank : 3 * rank].float().view(2, rank, -1).sum(0)
        return x_TN.float() @ thin_RN.mT
    parts_TK = torch.mm(x_TN, thin_KN.mT, out_dtype=torch.float32)
    return parts_TK[:, rank : 2 * rank] + parts_TK[:, 2 * rank : 3 * rank]


def add_product(y_TN: Tensor, g_TR: Tensor, thin_KN: Tensor) -> None:
    """y += g B, in place; g is float32, and `thin_KN` what `kept` made of B."""
    if y_TN.dtype != torch.float32:
        high_TR = g_TR.to(y_TN.dtype)
        low_TR = (g_TR - high_TR).to(y_TN.dtype)
        padding_TR = high_TR.new_zeros(len(g_TR), len(thin_KN) - 3 * g_TR.shape[1])
        g_TR = torch.cat([high_TR, low_TR, high_TR, padding_TR], dim=1)
    y_TN.addmm_(g_TR, thin_KN)
