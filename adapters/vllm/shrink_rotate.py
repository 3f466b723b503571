"""V^T x and R (V^T x) of all tokens as one operation, for graphs: on CUDA one Triton kernel that reads x once.

    g[t, l] = sum_j R[slot(t), l, j] * sum_i V^T[j, i] * x[t, i]        with R zero between modules

Products and sums are float32 (no tf32: R and V are not rounded), whatever x's dtype is.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKENS = 8
FEATURES = 128


@torch.library.custom_op("tinylora::shrink_rotate", mutates_args=())
def shrink_rotate(x_TI: Tensor, shrink_LI: Tensor, table_SE: Tensor, slots: Tensor, rank: int) -> Tensor:
    """(T, n*r) float32, of x (T, in), V^T (n*r, in), the table's columns of these modules (slots, n*r*r) and the slot
    of each token (max tokens,)."""
    g_TL = torch.empty(x_TI.shape[0], shrink_LI.shape[0], device=x_TI.device)
    launch(x_TI, shrink_LI, table_SE, slots, rank, g_TL)
    return g_TL


@shrink_rotate.register_fake
def _(x_TI: Tensor, shrink_LI: Tensor, table_SE: Tensor, slots: Tensor, rank: int) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], shrink_LI.shape[0], dtype=torch.float32)


def launch(x_TI: Tensor, shrink_LI: Tensor, table_SE: Tensor, slots: Tensor, rank: int, g_TL: Tensor) -> None:
    """Run the kernel; on CPU tensors only in Triton's interpreter."""
    # Triton is only there where there is a GPU.
    from adapters.vllm.shrink_rotate_kernel import kernel

    tokens, features = x_TI.shape
    terms = shrink_LI.shape[0]
    padded = max(2, 1 << (terms - 1).bit_length())
    kernel[((tokens + TOKENS - 1) // TOKENS,)](
        x_TI, shrink_LI, table_SE, slots, g_TL, tokens, features, x_TI.stride(0), table_SE.stride(0),
        RANK=rank, TERMS=terms, PADDED=padded, TOKENS=TOKENS, FEATURES=FEATURES,
    )  # fmt: skip
