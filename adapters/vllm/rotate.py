"""R_t h_t of every token t: R of the token's adapter, read from the table by its slot, times h = V^T x.

    g[t, q, k] = sum_j R[slot(t), q, k, j] * sum_p h[t, p, q, j]        for each module q of the layer; p: parts of h

On a GPU this is one operation that Inductor does not look into, a Triton kernel. Design decision: written in torch, it
would be computed again for every output of the layer, because Inductor moves what is cheap into the loop that uses it:
r * r reads of R for each output instead of one of g.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.vllm.adapted_layer import AdaptedLayer
from adapters.vllm.shrink import STRIDED, power_of_two

TOKENS = 8


def rotated(h_TP: Tensor, parts: int, layer: AdaptedLayer, modules: Tensor | None = None) -> Tensor:
    """(T, n, r) float32 of h (T, at least parts * n*r) of any float dtype, its parts side by side.

    modules (H,) int64: instead (T, H, r), that of the named module in every place.
    """
    if h_TP.is_cuda:
        return rotated_by_kernel(h_TP, parts, layer, modules)
    (tokens, _), rank, terms = h_TP.shape, layer.tinylora_rank, layer.tinylora_shrink.shape[0]
    h_TL = h_TP.narrow(1, 0, terms).float()
    for part in range(1, parts):
        h_TL = h_TL + h_TP.narrow(1, part * terms, terms)
    r_TE = layer.tinylora_table.index_select(0, layer.tinylora_slots.narrow(0, 0, tokens))
    g_TQR = (r_TE.view(tokens, -1, rank, rank) * h_TL.view(tokens, -1, 1, rank)).sum(-1)
    return g_TQR if modules is None or len(modules) == g_TQR.shape[1] else g_TQR.index_select(1, modules)


def rotated_by_kernel(h_TP: Tensor, parts: int, layer: AdaptedLayer, modules: Tensor | None = None) -> Tensor:
    """As `rotated`."""
    terms, rank = layer.tinylora_shrink.shape[0], layer.tinylora_rank
    g: Tensor = rotate_kernel(h_TP, layer.tinylora_table, layer.tinylora_slots, modules, parts, terms, rank)
    return g.view(h_TP.shape[0], -1, rank)


@torch.library.custom_op("tinylora::rotate", mutates_args=(), tags=STRIDED)
def rotate_kernel(
    h_TP: Tensor, table_SE: Tensor, slots_T: Tensor, modules: Tensor | None, parts: int, terms: int, rank: int
) -> Tensor:
    """(T, n*r), or (T, H*r) with `modules`, float32; on CPU tensors only in Triton's interpreter.

    h (T, at least parts * terms), terms = n*r; the table's columns of these modules (slots, n*r*r); the slot of each
    token (max tokens,).
    """
    # Triton is only there where there is a GPU.
    from adapters.vllm.kernels import rotate

    tokens, outs = h_TP.shape[0], outs_of(modules, terms, rank)
    g = torch.empty(tokens, outs, device=h_TP.device)
    rotate[(-(-tokens // TOKENS),)](
        h_TP, table_SE, slots_T, modules, g, tokens, h_TP.stride(0), table_SE.stride(0),
        PARTS=parts, RANK=rank, TERMS=terms, OUTS=outs, PADDED=power_of_two(outs), TOKENS=TOKENS,
    )  # fmt: skip
    return g


@rotate_kernel.register_fake
def _(
    h_TP: Tensor, table_SE: Tensor, slots_T: Tensor, modules: Tensor | None, parts: int, terms: int, rank: int
) -> Tensor:
    return h_TP.new_empty(h_TP.shape[0], outs_of(modules, terms, rank), dtype=torch.float32)


def outs_of(modules: Tensor | None, terms: int, rank: int) -> int:
    """Numbers for each token."""
    return terms if modules is None else len(modules) * rank
