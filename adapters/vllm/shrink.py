"""V^T x of all tokens: float32 (T, parts * n*r), parts side by side that are to be added (rotate.py adds them).

On a GPU, 16-bit x is multiplied with V^T in two 16-bit parts: tensor cores multiply 16-bit numbers exactly and add them
in float32, and x is read as it is. Everywhere else x is converted, and V^T is the one part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.vllm.adapted_layer import AdaptedLayer

# Features of x that one program of the kernel adds up.
SPLIT = 1024
TOKENS, FEATURES = 8, 128
# The kernels take any stride between tokens, so Inductor need not copy what has another one than it was traced with.
STRIDED = (torch.Tag.needs_fixed_stride_order,)


def shrunk(x_TI: Tensor, layer: AdaptedLayer) -> tuple[Tensor, int]:
    """V^T x by one product, and how many parts it has."""
    if layer.tinylora_parts is None:
        return nn.functional.linear(x_TI.float(), layer.tinylora_shrink), 1
    return _product(x_TI, layer.tinylora_parts), 2


def _product(x_TI: Tensor, parts_PI: Tensor) -> Tensor:
    """x times both parts of V^T and the zeros below, summed in float32."""
    if x_TI.is_cuda:
        return torch.mm(x_TI, parts_PI.t(), out_dtype=torch.float32)
    return x_TI.float() @ parts_PI.float().t()


def shrunk_by_kernel(x_TI: Tensor, layer: AdaptedLayer) -> tuple[Tensor, int]:
    """V^T x by a Triton kernel, which reads x once and adds up SPLIT features in each part; how many."""
    return shrink_kernel(x_TI, layer.tinylora_shrink), parts_of(x_TI.shape[1])


def parts_of(features: int) -> int:
    """How many parts the kernel makes."""
    return -(-features // SPLIT)


@torch.library.custom_op("tinylora::shrink", mutates_args=(), tags=STRIDED)
def shrink_kernel(x_TI: Tensor, shrink_LI: Tensor) -> Tensor:
    """(T, parts * n*r) float32 of x (T, in) and V^T (n*r, in) float32; on CPU tensors only in Triton's interpreter."""
    # Triton is only there where there is a GPU.
    from adapters.vllm.kernels import shrink

    (tokens, features), terms = x_TI.shape, shrink_LI.shape[0]
    parts = parts_of(features)
    h_TP = torch.empty(tokens, parts * terms, device=x_TI.device)
    shrink[(-(-tokens // TOKENS), parts)](
        x_TI, shrink_LI, h_TP, tokens, features, x_TI.stride(0),
        TERMS=terms, PADDED=power_of_two(terms), TOKENS=TOKENS, FEATURES=FEATURES, SPLIT=SPLIT,
    )  # fmt: skip
    return h_TP


@shrink_kernel.register_fake
def _(x_TI: Tensor, shrink_LI: Tensor) -> Tensor:
    return x_TI.new_empty(x_TI.shape[0], parts_of(x_TI.shape[1]) * shrink_LI.shape[0], dtype=torch.float32)


def power_of_two(terms: int) -> int:
    """At least `terms` and at least 2: the sizes that Triton's blocks can have."""
    return max(2, 1 << (terms - 1).bit_length())
