"""Another library's low-rank update `B C A` in our factors: the R of each module that is nearest to it.

Least squares onto the factors absorbs signs, order and any rotation of the other library's vectors. What it cannot
express is one number, the share of the update that is lost. An exact decomposition of the same weights loses rounding.
A randomized one, as LoRA-XS's first code computes, differs from ours in its last vectors, and loses that part.

Design decision: singular vectors are not matched one by one, which would need their signs and order.

The loss alone does not tell a randomized decomposition of our weights from one of other weights. Their images do:
for any b, `W^T b` is the a that belongs to it, so `V^T a` and `S U^T b` are parallel for all pairs made from our W.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import CheckpointError
from adapters.vector.recipe import Recipe

# Rounding both matrices to bfloat16 leaves about 0.004 outside the factors' span, and turns a pair by as much.
ROUNDING = 0.02
# Share of an update that may be lost, over all modules, when its vectors come from an approximate SVD of our weights.
# The randomised SVD of a rank r (10 iterations, 10 vectors more) loses 0.06 to 0.08 in factors of rank 2 r + 10.
MAX_LOSS = 0.1
MAX_FACTORS_RANK = 64


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """`delta W = left @ core @ right` of one module, float64: (out, j), (j, j), (j, in)."""

    left: Tensor
    core: Tensor
    right: Tensor


@dataclass(frozen=True, slots=True)
class Fit:
    """The fitted matrices.

    matrices: R of every module in the convention `paper`, float64 (M, k, k).

    loss: |delta W - fitted| / |delta W|, in the Frobenius norm over all modules together; 0 to MAX_LOSS.
    """

    matrices: Tensor
    loss: float


@dataclass(frozen=True, slots=True)
class Imported:
    """An adapter from another library's checkpoint, and the share of its update that was lost (see Fit.loss)."""

    adapter: Adapter
    loss: float


@dataclass(slots=True)
class _Size:
    """The fit with the first k factors, over the modules so far."""

    matrices: Tensor
    lost2: float = 0.0
    total2: float = 0.0
    worst: tuple[float, str] = (0.0, "")

    @property
    def loss(self) -> float:
        return float((self.lost2 / self.total2) ** 0.5) if self.total2 else 0.0


def fit_matrices(updates: Iterable[tuple[str, LowRankUpdate]], factors: Factors, rank: int) -> Fit:
    """The fit of `updates`, pairs of module and update that are read once; modules without an update get R = 0.

    k is `rank` when the factors' first `rank` singular vectors carry every update up to ROUNDING, otherwise the
    factors' full rank. Then up to MAX_LOSS of the updates may be lost, if their vectors come from the weights of
    `factors`. Raises CheckpointError beyond, and for vectors of other weights.
    """
    modules = len(factors.modules)
    sizes = {k: _Size(torch.zeros(modules, k, k, dtype=torch.float64)) for k in sorted({rank, factors.rank})}
    rows = {module: row for row, module in enumerate(factors.modules)}
    furthest = (0.0, "")
    for module, update in updates:
        triplet = factors.triplet(module)
        furthest = max(furthest, (_mismatch(update, triplet), module))
        for k, size in sizes.items():
            size.matrices[rows[module]], outside2, total2 = _fit(update, triplet, k)
            if total2:
                size.worst = max(size.worst, ((outside2 / total2) ** 0.5, module))
            if bool(update.core.any()):
                size.lost2, size.total2 = size.lost2 + outside2, size.total2 + total2
    for size in sizes.values():
        if size.worst[0] <= ROUNDING:
            return Fit(size.matrices, size.loss)
    full = sizes[factors.rank]
    if factors.kind != "svd":
        raise CheckpointError(
            f"{full.worst[0]:.1%} of the update in {full.worst[1]} lies outside the {factors.kind} factors of this "
            "server; a checkpoint made of singular vectors needs svd factors (the server's setting factors_kind)"
        )
    if furthest[0] > ROUNDING:
        raise CheckpointError(
            f"the checkpoint was made for other base weights than those of {factors.base_model!r}, or A and B are no "
            f"leading singular vectors: in {furthest[1]} A differs by {furthest[0]:.1%} from W^T B, expected at most "
            f"{ROUNDING:.0%}, and {full.worst[0]:.1%} of the update in {full.worst[1]} lies outside the factors (rank "
            f"{factors.rank}); serve the base model it was trained on, and train with an SVD of its weights"
        )
    if full.loss > MAX_LOSS:
        raise CheckpointError(_too_far(full, factors, rank))
    return Fit(full.matrices, full.loss)


def _too_far(full: _Size, factors: Factors, rank: int) -> str:
    text = (
        f"the checkpoint was made for {factors.base_model!r}, but with an approximate SVD: {full.loss:.1%} of its "
        f"update lies outside the leading {factors.rank} singular vectors (in {full.worst[1]} {full.worst[0]:.1%}), "
        f"expected at most {MAX_LOSS:.0%}; "
    )
    if factors.rank >= MAX_FACTORS_RANK:
        return text + "train it again from an exact SVD (torch.linalg.svd)"
    enough = 2 * rank + 10 if factors.rank < 2 * rank + 10 else MAX_FACTORS_RANK
    return text + (
        f"serve the model with factors of a higher rank, {min(enough, MAX_FACTORS_RANK)} for a start (the server's "
        "setting factors_rank), or train it again from an exact SVD (torch.linalg.svd)"
    )


def elementary_adapter(matrices_MKK: Tensor, factors: Factors) -> Adapter:
    """The adapter whose vector is R itself, k * k float32 numbers per module (LoRA-XS's parametrization)."""
    modules, size, _ = matrices_MKK.shape
    recipe = Recipe(rank=size, u=size * size, groups=modules, projection="elementary", convention="paper")
    return Adapter.from_vector(matrices_MKK.reshape(modules, size * size).float(), recipe, factors.digest, "float32")


def _fit(update: LowRankUpdate, triplet: tuple[Tensor, Tensor, Tensor], size: int) -> tuple[Tensor, float, float]:
    """(R float64 (k, k), squared norm of the part that it lacks, squared norm of the whole update)."""
    u_OK, s_K, v_IK = (part.double() for part in triplet)
    u_OK, s_K, v_IK = u_OK[:, :size], s_K[:size], v_IK[:, :size]
    left_KJ = _coordinates(u_OK, update.left)
    right_KJ = _coordinates(v_IK, update.right.T)
    # A singular value of zero has no direction to scale; what an update puts there cannot be served and is dropped.
    inverse_K = torch.where(s_K > 0, 1 / s_K, 0.0)
    matrix_KK = inverse_K[:, None] * (left_KJ @ update.core @ right_KJ.T)
    return matrix_KK, *_norms2(update, update.left - u_OK @ left_KJ, v_IK @ right_KJ)


def _mismatch(update: LowRankUpdate, triplet: tuple[Tensor, Tensor, Tensor]) -> float:
    """How far the images of left's columns under our weights differ in direction from right's rows, from 0 to 1.

    It is the sine of their angle within our factors, weighted by the size of the rows, whatever part of the singular
    values is in A or B.
    """
    u_OK, s_K, v_IK = (part.double() for part in triplet)
    image_KJ = s_K[:, None] * _coordinates(u_OK, update.left)
    image_KJ = torch.nn.functional.normalize(image_KJ, dim=0)
    right_KJ = _coordinates(v_IK, update.right.T)
    total = float(right_KJ.square().sum())
    apart = float((right_KJ - image_KJ * (image_KJ * right_KJ).sum(0)).square().sum())
    return (apart / total) ** 0.5 if total else 0.0


def _coordinates(basis_FK: Tensor, vectors_FJ: Tensor) -> Tensor:
    # Least squares through the Gram matrix: float32 columns are orthonormal only to 1e-7, and random factors need not
    # be orthonormal at all.
    coordinates_KJ: Tensor = torch.linalg.solve(basis_FK.T @ basis_FK, basis_FK.T @ vectors_FJ)
    return coordinates_KJ


def _norms2(update: LowRankUpdate, left_outside_OJ: Tensor, right_inside_IJ: Tensor) -> tuple[float, float]:
    """|delta W - fitted|^2 and |delta W|^2 in the Frobenius norm; those of `left @ right` when the core is zero."""
    core = update.core if bool(update.core.any()) else torch.eye(len(update.core), dtype=torch.float64)
    # The two parts are orthogonal: one lies outside the column space of U, the other inside it.
    left_inside_OJ = update.left - left_outside_OJ
    outside = _norm2(left_outside_OJ, core, update.right)
    outside += _norm2(left_inside_OJ, core, update.right - right_inside_IJ.T)
    return outside, _norm2(update.left, core, update.right)


def _norm2(left_OJ: Tensor, core_JJ: Tensor, right_JI: Tensor) -> float:
    # |L C R|_F^2 from r x r Gram matrices, so that the (out, in) product is never formed.
    return float(torch.trace(core_JJ.T @ (left_OJ.T @ left_OJ) @ core_JJ @ (right_JI @ right_JI.T)).clamp(min=0))
