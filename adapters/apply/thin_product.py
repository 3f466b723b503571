"""Products of activations with thin matrices (r rows, r small), as exact in 16 bits as in float32.

Both sides are the sum of two 16-bit matrices (two_parts.py): a thin matrix B is kept as the rows (high, high, low), and
the numbers g that it is multiplied by become the columns (high, low, high). One product of 16-bit matrices, which adds
in float32, is then g B but for low times low.

Design decision: rounding B and g to 16 bits would save nothing, because activations are what is read and written, and
would move the delta of an adapter by as much as the rounding of activations does. The serving engine computes it in
float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.apply.two_parts import padded_to_8, two_parts


def kept(thin_RN: Tensor, dtype: torch.dtype) -> Tensor:
    """A thin matrix, (r, N) float32, as the other functions take it: of `dtype`, that of the activations, (K, N)."""
    if dtype == torch.float32:
        return thin_RN.contiguous()
    high_RN, low_RN = two_parts(thin_RN, dtype)
    return padded_to_8(torch.cat([high_RN, high_RN, low_RN]), 0)


def widened(g_TR: Tensor, dtype: torch.dtype) -> Tensor:
    """What is multiplied with rows that `kept` made of a thin matrix: of `dtype`, (T, K), from g float32 (T, r)."""
    if dtype == torch.float32:
        return g_TR
    high_TR, low_TR = two_parts(g_TR, dtype)
    return padded_to_8(torch.cat([high_TR, low_TR, high_TR], dim=1), 1)


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
    y_TN.addmm_(widened(g_TR, y_TN.dtype), thin_KN)
