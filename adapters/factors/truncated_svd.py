"""The leading singular triplets of a large float32 matrix, without computing the others.

Method: block Golub-Kahan-Lanczos with full reorthogonalization and thick restart. A basis Q of the smaller side grows
by the residuals of the leading Ritz triplets; `A Q` is kept in QR form, so `A v = s u` always holds and `A^T u - s v`
is the whole error. Products run in float32 until its rounding would matter, and then in float64, some rows of the
weight at a time: the error of a singular subspace is residual / gap, so with neighbouring singular values 1 % apart
float32 cannot give vectors to 1e-5.

All of it runs where the weight is, on a GPU many times faster; only decompositions of small matrices, which a GPU does
not speed up, are made on the CPU. Design decision: not a randomised SVD (a few power iterations), which takes
fewer steps but has no test of convergence, so that its error would depend on the spectrum.

Blocks of vectors are kept as rows, (W, n), which multiply several times faster by a row-major weight than columns. The
method is meant for up to a few dozen triplets.
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
# Numbers converted to float64 at a time: on a CPU they stay in the second-level cache, on a GPU they fill it.
_CHUNK = {"cpu": 2**18, "cuda": 2**26}


def truncated_svd(weight_OI: Tensor, rank: int, *, tolerance: float = 1e-5) -> tuple[Tensor, Tensor, Tensor]:
    """(U (out, rank), S (rank,) descending, V (in, rank)) of a float32 weight (out, in), all float32, on the CPU.

    The weight may be on a GPU.

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
        left_OZ, values_Z, right_ZI = torch.linalg.svd(weight_OI.cpu().double(), full_matrices=False)
        return _canonical(left_OZ[:, :rank].T, values_Z[:rank], right_ZI[:rank])
    operator = _Operator(weight_OI, transposed=weight_OI.shape[0] < weight_OI.shape[1])
    left_RX, values_R, right_RZ = _lanczos(operator, rank, block, tolerance, _FLOAT32_FLOOR * norm)
    return _canonical(right_RZ, values_R, left_RX) if operator.transposed else _canonical(left_RX, values_R, right_RZ)


@dataclass(slots=True)
class _Operator:
    """The weight as a tall (X, Z) linear map on blocks of rows, in the precision asked for."""

    weight_OI: Tensor
    transposed: bool
    precise: bool = False

    def forward(self, x_WZ: Tensor) -> Tensor:
        return self._times_weight(x_WZ) if self.transposed else self._times_transpose(x_WZ)

    def adjoint(self, x_WX: Tensor) -> Tensor:
        return self._times_transpose(x_WX) if self.transposed else self._times_weight(x_WX)

    def _times_weight(self, x_WO: Tensor) -> Tensor:
        if not self.precise:
            return (x_WO.float() @ self.weight_OI).double()
        result_WI = x_WO.new_zeros(len(x_WO), self.weight_OI.shape[1])
        for rows, weight_HI in self._precise_rows():
            result_WI.addmm_(x_WO[:, rows], weight_HI)
        return result_WI

    def _times_transpose(self, x_WI: Tensor) -> Tensor:
        if not self.precise:
            return (x_WI.float() @ self.weight_OI.T).double()
        result_WO = x_WI.new_empty(len(x_WI), self.weight_OI.shape[0])
        for rows, weight_HI in self._precise_rows():
            result_WO[:, rows] = x_WI @ weight_HI.T
        return result_WO

    @property
    def shape(self) -> tuple[int, int]:
        """(X, Z), X >= Z."""
        return max(self.weight_OI.shape), min(self.weight_OI.shape)

    def _precise_rows(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of the weight at a time in float64, all in one buffer."""
        height, width = self.weight_OI.shape
        step = min(height, max(1, _CHUNK[self.weight_OI.device.type] // width))
        buffer_HI = self.weight_OI.new_empty(step, width, dtype=torch.float64)
        for start in range(0, height, step):
            part_HI = self.weight_OI[start : start + step]
            yield slice(start, start + step), buffer_HI[: len(part_HI)].copy_(part_HI)


@dataclass(frozen=True, slots=True)
class _Space:
    """A basis (Y, Z) with orthonormal rows, and its image in QR form: A basis^T = image^T small."""

    basis_YZ: Tensor
    image_YX: Tensor
    small_YY: Tensor

    def grown(self, new_WZ: Tensor, operator: _Operator) -> "_Space":
        image_WX, inside_YW, corner_WW = _orthonormal(operator.forward(new_WZ), self.image_YX)
        below_WY = new_WZ.new_zeros(len(new_WZ), len(self.small_YY))
        small_YY = torch.cat([torch.cat([self.small_YY, inside_YW], 1), torch.cat([below_WY, corner_WW], 1)])
        return _Space(torch.cat([self.basis_YZ, new_WZ]), torch.cat([self.image_YX, image_WX]), small_YY)

    @classmethod
    def spanned(cls, x_WZ: Tensor, operator: _Operator) -> "_Space":
        basis_WZ = _orthonormal(x_WZ, x_WZ[:0])[0]
        image_WX, _, small_WW = _orthonormal(operator.forward(basis_WZ), x_WZ.new_zeros(0, operator.shape[0]))
        return cls(basis_WZ, image_WX, small_WW)


def _lanczos(
    operator: _Operator, rank: int, block: int, tolerance: float, float32_floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    device = operator.weight_OI.device
    # The same numbers for every device.
    generator = torch.Generator("cpu").manual_seed(0)
    start_WZ = torch.randn(block, operator.shape[1], generator=generator, dtype=torch.float64, device="cpu").to(device)
    space = _Space.spanned(operator.adjoint(operator.forward(start_WZ)), operator)
    for _ in range(_MAX_STEPS):
        left_YY, values_Y, right_YY = (part.to(device) for part in torch.linalg.svd(space.small_YY.cpu()))
        left_WX = left_YY[:, :block].T @ space.image_YX
        right_WZ = right_YY[:block] @ space.basis_YZ
        residual_WZ = operator.adjoint(left_WX) - values_Y[:block, None] * right_WZ
        error = float(torch.linalg.matrix_norm(residual_WZ[:rank], ord=2))
        target = _target(values_Y.tolist(), rank, tolerance)
        if operator.precise and error <= target:
            return left_WX[:rank], values_Y[:rank], right_WZ[:rank]
        kept = _KEPT_BLOCKS * block
        if not operator.precise and error <= max(target, float32_floor):
            operator.precise = True
            space = _Space.spanned(right_YY[:kept] @ space.basis_YZ, operator)
            continue
        if len(space.basis_YZ) + block > _MAX_BLOCKS * block:
            space = _Space(
                right_YY[:kept] @ space.basis_YZ, left_YY[:, :kept].T @ space.image_YX, torch.diag(values_Y[:kept])
            )
        space = space.grown(_orthonormal(residual_WZ, space.basis_YZ)[0], operator)
    if error <= 0.5 * tolerance * float(values_Y[rank - 1]):
        # Singular triplets all right, only not told apart from their neighbours.
        return left_WX[:rank], values_Y[:rank], right_WZ[:rank]
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


def _orthonormal(x_WZ: Tensor, against_YZ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Q (W, Z), inside (Y, W), corner (W, W)) with `x^T = against^T inside + Q^T corner`, Q orthonormal to `against`.

    Three passes, so that rows which vanish in the first are replaced by clean directions.
    """
    inside_YW = x_WZ.new_zeros(len(against_YZ), len(x_WZ))
    corner_WW = torch.eye(len(x_WZ), dtype=x_WZ.dtype, device=x_WZ.device)
    for _ in range(3):
        overlap_YW = against_YZ @ x_WZ.T
        q_ZW, r_WW = torch.linalg.qr(x_WZ.T - against_YZ.T @ overlap_YW)
        inside_YW += overlap_YW @ corner_WW
        corner_WW = r_WW @ corner_WW
        x_WZ = q_ZW.T.contiguous()
    return x_WZ, inside_YW, corner_WW


def _canonical(u_RO: Tensor, s_R: Tensor, v_RI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u_RO, s_R, v_RI = u_RO.cpu(), s_R.cpu(), v_RI.cpu()
    largest_R1 = u_RO.abs().argmax(dim=1, keepdim=True)
    signs_R1 = 1 - 2 * (u_RO.gather(1, largest_R1) < 0).double()
    return (u_RO * signs_R1).T.float(), s_R.float(), (v_RI * signs_R1).T.float()
