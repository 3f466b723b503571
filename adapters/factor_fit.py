"""Expressing a foreign low-rank update `B C A` in our factors: the R per module that is nearest to it.

The one decision: least squares onto the factors instead of matching singular vectors one by one. It absorbs signs,
order and any rotation of the foreign vectors, and what it cannot express is one number, the relative residual, which
tells whether both come from the same weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.adapter import Adapter
from adapters.errors import CheckpointError
from adapters.factors import Factors
from adapters.recipe import Recipe

# Rounding both foreign matrices to bfloat16 leaves about 0.004 outside the factors' span; unrelated weights leave
# nearly 1. Between the two lies a base fine-tuned after the factors were computed, which must be refused as well.
RESIDUAL_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """`delta W = left @ core @ right` of one module, float64: (out, r), (r, r), (r, in)."""

    left: Tensor
    core: Tensor
    right: Tensor


def fit_matrices(updates: Iterable[tuple[str, LowRankUpdate]], factors: Factors, rank: int) -> Tensor:
    """R of every module of `factors` in the engine's convention, float64 (M, k, k); modules without an update get 0.

    k is `rank` when the factors' first `rank` singular vectors carry every update, otherwise the factors' full rank.
    `updates` is read once, one module at a time. Raises CheckpointError when even the full rank leaves a relative
    residual above RESIDUAL_TOLERANCE in some module.
    """
    sizes = sorted({min(rank, factors.rank), factors.rank})
    fitted = {size: torch.zeros(len(factors.modules), size, size, dtype=torch.float64) for size in sizes}
    worst = dict.fromkeys(sizes, (0.0, ""))
    rows = {module: row for row, module in enumerate(factors.modules)}
    for module, update in updates:
        for size in sizes:
            fitted[size][rows[module]], residual = _fit(update, factors.triplet(module), size)
            worst[size] = max(worst[size], (residual, module))
    for size in sizes:
        if worst[size][0] <= RESIDUAL_TOLERANCE:
            return fitted[size]
    residual, module = worst[sizes[-1]]
    raise CheckpointError(
        f"the checkpoint was made for other base weights: in {module} {residual:.1%} of its update lies outside the "
        f"factors of {factors.base_model!r} ({factors.kind}, rank {factors.rank}), expected at most "
        f"{RESIDUAL_TOLERANCE:.0%}; serve the base model it was trained on, with svd factors"
    )


def elementary_adapter(matrices_MKK: Tensor, factors: Factors) -> Adapter:
    """The adapter whose vector is R itself, k*k float32 numbers per module: LoRA-XS's own parametrisation."""
    modules, size, _ = matrices_MKK.shape
    recipe = Recipe(rank=size, u=size * size, groups=modules, projection="elementary", convention="paper")
    return Adapter.from_vector(matrices_MKK.reshape(modules, size * size).float(), recipe, factors.digest, "float32")


def _fit(update: LowRankUpdate, triplet: tuple[Tensor, Tensor, Tensor], size: int) -> tuple[Tensor, float]:
    u_OK, s_K, v_IK = (part.double() for part in triplet)
    u_OK, s_K, v_IK = u_OK[:, :size], s_K[:size], v_IK[:, :size]
    left_KR = _coordinates(u_OK, update.left)
    right_KR = _coordinates(v_IK, update.right.T)
    # A singular value of zero has no direction to scale; what an update puts there cannot be served and is dropped.
    inverse_K = torch.where(s_K > 0, 1 / s_K, 0.0)
    matrix_KK = inverse_K[:, None] * (left_KR @ update.core @ right_KR.T)
    return matrix_KK, _residual(update, update.left - u_OK @ left_KR, v_IK @ right_KR)


def _coordinates(basis_NK: Tensor, vectors_NR: Tensor) -> Tensor:
    # Least squares through the Gram matrix: float32 columns are orthonormal only to 1e-7, and random factors need not
    # be orthonormal at all.
    coordinates_KR: Tensor = torch.linalg.solve(basis_NK.T @ basis_NK, basis_NK.T @ vectors_NR)
    return coordinates_KR


def _residual(update: LowRankUpdate, left_outside_OR: Tensor, right_inside_IR: Tensor) -> float:
    """|delta W - fitted| / |delta W| in the Frobenius norm; of `left @ right` while the core is still zero."""
    core = update.core if bool(update.core.any()) else torch.eye(len(update.core), dtype=torch.float64)
    total = _norm2(update.left, core, update.right)
    if total == 0.0:
        return 0.0
    # The two parts are orthogonal: one lies outside the column space of U, the other inside it.
    left_inside_OR = update.left - left_outside_OR
    outside = _norm2(left_outside_OR, core, update.right)
    outside += _norm2(left_inside_OR, core, update.right - right_inside_IR.T)
    return float((outside / total) ** 0.5)


def _norm2(left_OR: Tensor, core_RR: Tensor, right_RI: Tensor) -> float:
    # |L C R|_F^2 from r x r Gram matrices, so that the (out, in) product is never formed.
    return float(torch.trace(core_RR.T @ (left_OR.T @ left_OR) @ core_RR @ (right_RI @ right_RI.T)).clamp(min=0))
