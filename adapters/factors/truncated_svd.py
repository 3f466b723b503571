"""The leading singular triplets of a large float32 matrix, without computing the others.

Method: block Golub-Kahan-Lanczos with full reorthogonalisation and thick restart. A basis Q of the smaller side grows
by the residuals of the leading Ritz triplets; `A Q` is kept in QR form, so `A v = s u` always holds and `A^T u - s v`
is the whole error. One decision: products run in float32 until its rounding would matter and then in float64, some rows
of the weight at a time, because the error of a singular *subspace* is residual / gap: with neighbouring singular values
1 % apart, float32 cannot give vectors to 1e-5.

Blocks of vectors are kept as rows, (B, n): several times faster to multiply by a row-major weight than columns are.
It does not aim at more than a few dozen triplets, and keeps nothing of the weight.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.vector.errors import FactorsError

# Vectors beyond the wanted ones in every block: clusters of singular values up to this size converge together.
_OVERSAMPLING = 6
# The basis restarts from its leading part at this many blocks.
_MAX_BLOCKS = 8
_KEPT_BLOCKS = 2
_MAX_STEPS = 300
# Where rounding in float32 products begins to matter, relative to the Frobenius norm of the weight.
_FLOAT32_FLOOR = 2e-6
# Singular values closer than this, relatively, count as equal: nobody can tell their vectors apart.
_MIN_GAP = 1e-5
# Numbers converted to float64 at a time: they stay in the second-level cache.
_CHUNK = 2**18


def truncated_svd(weight_OI: Tensor, rank: int, *, tolerance: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """(U (out, rank), S (rank,) descending, V (in, rank)) of a float32 weight (out, in), all float32.

    On return `|A^T u_i - s_i v_i| <= tolerance * s_i` (or 1e-11 s_1, where s_i is nearly zero), and `U S V^T` is
    within `tolerance` of the exact truncation, relatively, wherever s_rank and s_rank+1 differ by more than 1e-5 s_1;
    where they do not, or lie in a cluster too large to take apart, the truncation itself is not determined. Signs: the
    entry of largest magnitude of each u_i is positive (the first one of equals).

    Raises FactorsError when the matrix is smaller than `rank` or holds NaN or infinity, or without convergence.
    """
    if weight_OI.ndim != 2 or min(weight_OI.shape) < rank:
        raise FactorsError(
            f"a weight of shape {tuple(weight_OI.shape)} has no {rank} singular values; choose a lower rank"
        )
    norm = float(torch.linalg.vector_norm(weight_OI))
    if not math.isfinite(norm):
        raise FactorsError("the weight contains NaN or infinity; download it again")
    block = rank + _OVERSAMPLING
    if min(weight_OI.shape) <= block * _MAX_BLOCKS:
        # The basis would be the whole space.
        left_OM, values_M, right_MI = torch.linalg.svd(weight_OI.double(), full_matrices=False)
        return _canonical(left_OM[:, :rank].T, values_M[:rank], right_MI[:rank])
    operator = _Operator(weight_OI, transposed=weight_OI.shape[0] < weight_OI.shape[1])
    left_RP, values_R, right_RN = _lanczos(operator, rank, block, tolerance, _FLOAT32_FLOOR * norm)
    return _canonical(right_RN, values_R, left_RP) if operator.transposed else _canonical(left_RP, values_R, right_RN)


@dataclass(slots=True)
class _Operator:
    """The weight as a tall (P, N) linear map on blocks of rows, in the precision asked for."""

    weight_OI: Tensor
    transposed: bool
    precise: bool = False

    def forward(self, x_BN: Tensor) -> Tensor:
        return self._times_weight(x_BN) if self.transposed else self._times_transpose(x_BN)

    def adjoint(self, x_BP: Tensor) -> Tensor:
        return self._times_transpose(x_BP) if self.transposed else self._times_weight(x_BP)

    def _times_weight(self, x_BO: Tensor) -> Tensor:
        if not self.precise:
            return (x_BO.float() @ self.weight_OI).double()
        result_BI = torch.zeros(len(x_BO), self.weight_OI.shape[1], dtype=torch.float64)
        for rows, weight_CI in self._precise_rows():
            result_BI.addmm_(x_BO[:, rows], weight_CI)
        return result_BI

    def _times_transpose(self, x_BI: Tensor) -> Tensor:
        if not self.precise:
            return (x_BI.float() @ self.weight_OI.T).double()
        result_BO = torch.empty(len(x_BI), self.weight_OI.shape[0], dtype=torch.float64)
        for rows, weight_CI in self._precise_rows():
            result_BO[:, rows] = x_BI @ weight_CI.T
        return result_BO

    @property
    def shape(self) -> tuple[int, int]:
        """(P, N), P >= N."""
        return max(self.weight_OI.shape), min(self.weight_OI.shape)

    def _precise_rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of the weight at a time in float64, all in one buffer."""
        height, width = self.weight_OI.shape
        step = max(1, _CHUNK // width)
        buffer_CI = torch.empty(step, width, dtype=torch.float64)
        for start in range(0, height, step):
            part_CI = self.weight_OI[start : start + step]
            yield slice(start, start + step), buffer_CI[: len(part_CI)].copy_(part_CI)


@dataclass(frozen=True, slots=True)
class _Space:
    """A basis (M, N) with orthonormal rows, and its image in QR form: A basis^T = image^T small."""

    basis_MN: Tensor
    image_MP: Tensor
    small_MM: Tensor

    def grown(self, new_BN: Tensor, operator: _Operator) -> "_Space":
        image_BP, inside_MB, corner_BB = _orthonormal(operator.forward(new_BN), self.image_MP)
        below_BM = torch.zeros(len(new_BN), len(self.small_MM), dtype=torch.float64)
        small_MM = torch.cat([torch.cat([self.small_MM, inside_MB], 1), torch.cat([below_BM, corner_BB], 1)])
        return _Space(torch.cat([self.basis_MN, new_BN]), torch.cat([self.image_MP, image_BP]), small_MM)

    @classmethod
    def spanned(cls, x_BN: Tensor, operator: _Operator) -> "_Space":
        basis_BN = _orthonormal(x_BN, x_BN[:0])[0]
        image_BP, _, small_BB = _orthonormal(operator.forward(basis_BN), x_BN.new_zeros(0, operator.shape[0]))
        return cls(basis_BN, image_BP, small_BB)


def _lanczos(
    operator: _Operator, rank: int, block: int, tolerance: float, float32_floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    start_BN = torch.randn(block, operator.shape[1], generator=generator, dtype=torch.float64)
    space = _Space.spanned(operator.adjoint(operator.forward(start_BN)), operator)
    for _ in range(_MAX_STEPS):
        left_MM, values_M, right_MM = torch.linalg.svd(space.small_MM)
        left_BP = left_MM[:, :block].T @ space.image_MP
        right_BN = right_MM[:block] @ space.basis_MN
        residual_BN = operator.adjoint(left_BP) - values_M[:block, None] * right_BN
        error = float(torch.linalg.matrix_norm(residual_BN[:rank], ord=2))
        target = _target(values_M.tolist(), rank, tolerance)
        if operator.precise and error <= target:
            return left_BP[:rank], values_M[:rank], right_BN[:rank]
        kept = _KEPT_BLOCKS * block
        if not operator.precise and error <= max(target, float32_floor):
            operator.precise = True
            space = _Space.spanned(right_MM[:kept] @ space.basis_MN, operator)
            continue
        if len(space.basis_MN) + block > _MAX_BLOCKS * block:
            space = _Space(
                right_MM[:kept] @ space.basis_MN, left_MM[:, :kept].T @ space.image_MP, torch.diag(values_M[:kept])
            )
        space = space.grown(_orthonormal(residual_BN, space.basis_MN)[0], operator)
    if error <= 0.5 * tolerance * float(values_M[rank - 1]):
        # Singular triplets all right, only not told apart from their neighbours.
        return left_BP[:rank], values_M[:rank], right_BN[:rank]
    raise FactorsError(
        f"the singular value decomposition of a {tuple(operator.weight_OI.shape)} weight did not converge in "
        f"{_MAX_STEPS} steps: error {error:.1e}, wanted {target:.1e}"
    )


def _target(values: list[float], rank: int, tolerance: float) -> float:
    """What the residual of the wanted triplets may be, from the Ritz values.

    Davis-Kahan: the subspace is off by at most residual / gap. Half the tolerance leaves room for rounding to float32.
    """
    gap = values[rank - 1] - values[rank]
    determined = gap > _MIN_GAP * values[0]
    return max(0.5 * tolerance * (gap if determined else values[rank - 1]), 1e-11 * values[0])


def _orthonormal(x_BN: Tensor, against_MN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Q (B, N), inside (M, B), corner (B, B)) with `x^T = against^T inside + Q^T corner`, Q orthonormal to `against`.

    Three passes, so that rows which vanish in the first are replaced by clean directions.
    """
    inside_MB = x_BN.new_zeros(len(against_MN), len(x_BN))
    corner_BB = torch.eye(len(x_BN), dtype=x_BN.dtype)
    for _ in range(3):
        overlap_MB = against_MN @ x_BN.T
        q_NB, r_BB = torch.linalg.qr(x_BN.T - against_MN.T @ overlap_MB)
        inside_MB += overlap_MB @ corner_BB
        corner_BB = r_BB @ corner_BB
        x_BN = q_NB.T.contiguous()
    return x_BN, inside_MB, corner_BB


def _canonical(u_RO: Tensor, s_R: Tensor, v_RI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest_R1 = u_RO.abs().argmax(dim=1, keepdim=True)
    signs_R1 = torch.where(u_RO.gather(1, largest_R1) < 0, -1.0, 1.0).double()
    return (u_RO * signs_R1).T.float(), s_R.float(), (v_RI * signs_R1).T.float()
