"""What a vLLM linear gets so that the delta can be computed in it: the factors of its modules, and the shared table.

All are buffers of the layer: compiled graphs take them as inputs and never contain their values or addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from adapters.apply.two_parts import padded_to_8, two_parts


@dataclass(frozen=True, slots=True)
class LayerFactors:
    """The factors of the n modules packed into one vLLM linear, already sharded for this tensor-parallel rank.

    shrink_LI: V^T of every packed module, one below the other, (n*r, in), float32.
    expand_RO: (U S)^T of each of them, (r, out) float32.
    """

    shrink_LI: Tensor
    expand_RO: Sequence[Tensor]

    @property
    def rank(self) -> int:
        return self.expand_RO[0].shape[0]


class BaseMethod(Protocol):
    """What the delta uses of a vLLM linear method: how W x + bias is computed, and what it makes of a weight first."""

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def process_weights_after_loading(self, layer: Any) -> None: ...


class AdaptedLayer(Protocol):
    """What the delta reads of a vLLM linear into which n modules are packed.

    weight, bias:     as vLLM has them; `rows` and `columns` put an extended weight, and bias, in their place.
    tinylora_rank:    r.
    tinylora_shrink:  (n*r, in) float32, V^T of every module, one below the other.
    tinylora_parts:   V^T in two parts of the model's 16-bit dtype (see in_two_parts), or None: not used on this device.
    tinylora_expand:  (n*r, out) float32, block diagonal of (U S)^T.
    tinylora_blocks:  (r, blocks, width) float32, (U S)^T by blocks of outputs of equal width, each of one module.
    tinylora_modules: (blocks,) int64, the module of each block.
    tinylora_table:   (slots, n*r*r) float32, R of these modules for every adapter lately seen; slot 0 is zero.
    tinylora_slots:   (max tokens,) int64, the slot of each token's adapter.
    tinylora_bias:    the bias of an extended weight, or None.
    """

    weight: Tensor
    bias: Tensor | None
    tinylora_rank: int
    tinylora_shrink: Tensor
    tinylora_parts: Tensor | None
    tinylora_expand: Tensor
    tinylora_blocks: Tensor
    tinylora_modules: Tensor
    tinylora_table: Tensor
    tinylora_slots: Tensor
    tinylora_bias: Tensor | None


def add_factors(
    layer: nn.Module, factors: LayerFactors, table_SE: Tensor, slots_T: Tensor, parts_dtype: torch.dtype | None
) -> None:
    """Give `layer` what AdaptedLayer says. `parts_dtype`: the 16-bit dtype in which V^T x is a product with two parts
    of V^T; None: V^T x is a product in float32."""
    blocks_RHW, modules_H = blocks_of(factors.expand_RO)
    parts = None if parts_dtype is None else in_two_parts(factors.shrink_LI, parts_dtype)
    for name, tensor in (
        ("tinylora_shrink", factors.shrink_LI),
        ("tinylora_parts", parts),
        ("tinylora_expand", cast(Any, torch.block_diag)(*factors.expand_RO)),
        ("tinylora_blocks", blocks_RHW),
        ("tinylora_modules", modules_H.to(factors.shrink_LI.device)),
        ("tinylora_table", table_SE),
        ("tinylora_slots", slots_T),
        ("tinylora_bias", None),
    ):
        layer.register_buffer(name, tensor, persistent=False)
    linear: Any = layer
    linear.tinylora_rank = factors.rank


def blocks_of(expand_RO: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(U S)^T of n modules, (r, out) each, by blocks of equal width: (r, blocks, width), and the module of each block.

    A block diagonal would multiply every output by n * r terms, of which all but r are zero.
    """
    width = gcd(*(module_RO.shape[1] for module_RO in expand_RO))
    counts = torch.tensor([module_RO.shape[1] // width for module_RO in expand_RO])
    joined_RO = torch.cat(list(expand_RO), dim=1)
    blocks_RHW = joined_RO.view(joined_RO.shape[0], -1, width)
    return blocks_RHW, torch.arange(len(expand_RO)).repeat_interleave(counts)


def in_two_parts(matrix_LI: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 matrix (L, in) as two of a 16-bit dtype, one below the other, and zeros below (two_parts.py)."""
    return padded_to_8(torch.cat(two_parts(matrix_LI, dtype)), 0)
