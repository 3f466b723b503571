"""Factors without an SVD: seeded random directions in place of singular vectors.

Every bit follows from (seed, module, rank, weight), on every machine: SHA-256 numbers, then Gram-Schmidt whose inner
products are correctly rounded (`math.fsum`) and whose other steps are single float64 operations. That takes some
milliseconds per column in Python, which is fast enough for the ranks in use here.

All singular values are the root mean square of the weight's, `|W|_F / sqrt(min(out, in))`, to three digits, so the
update has the size of a typical direction of W. The leading singular values are larger, so useful vectors are larger
here than with svd factors.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.vector.sha256_stream import centred_sums


def random_triplet(weight_OI: Tensor, rank: int, seed: int, module: str) -> tuple[Tensor, Tensor, Tensor]:
    """(U (out, rank), S (rank,), V (in, rank)) float32; U and V have orthonormal columns."""
    out_features, in_features = weight_OI.shape
    norm = math.sqrt(math.fsum(rows.double().square().sum().item() for rows in torch.split(weight_OI, 256)))
    # Three digits: rounding in the sum above, which depends on the machine, cannot show.
    typical = float(f"{norm / math.sqrt(min(out_features, in_features)):.3g}")
    u_OR = _orthonormal(seed, module, "U", out_features, rank)
    v_IR = _orthonormal(seed, module, "V", in_features, rank)
    return u_OR, torch.full((rank,), typical), v_IR


def _orthonormal(seed: int, module: str, side: str, size: int, rank: int) -> Tensor:
    columns: list[NDArray[np.float64]] = []
    for index in range(rank):
        key = f"tinylora factors 1\0{seed}\0{module}\0{side}\0{index}\0".encode()
        column = _normalised(centred_sums(key, size).astype(np.float64))
        for _ in range(2):  # once more for what rounding left
            for other in columns:
                column = column - math.fsum(column * other) * other
            column = _normalised(column)
        columns.append(column * np.sign(column[np.abs(column).argmax()]))
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _normalised(column: NDArray[np.float64]) -> NDArray[np.float64]:
    return column / math.sqrt(math.fsum(column * column))
