"""A float32 matrix as two of a 16-bit dtype whose sum it is: products of 16-bit matrices are then as good as float32's.

The sum is off by at most 2^-16 of each number in bfloat16. In float16 by 2^-21 of it, or by 2^-24 where that is more:
float16 has no smaller steps. Of a row of V^T, of many small numbers, that is 2^-18 of its length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ALIGNMENT = 8


def two_parts(matrix: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The leading bits of each number, and the rest of it, rounded."""
    # Not `.to(dtype).float()`: Inductor leaves such a pair of conversions out, and the rest would be zero.
    leading = -(1 << (16 if dtype == torch.bfloat16 else 13))  # the bits that `dtype` has, of a float32
    high = (matrix.view(torch.int32) & leading).view(torch.float32)
    return high.to(dtype), (matrix - high).to(dtype)


def padded_to_8(matrix: Tensor, dim: int) -> Tensor:
    """`matrix` with zeros up to a multiple of 8 in the dimension `dim` (0 or 1), which tensor cores want."""
    missing = -matrix.shape[dim] % _ALIGNMENT
    return nn.functional.pad(matrix, (0, 0, 0, missing) if dim == 0 else (0, missing))
