"""An adapter as the engine takes it: its matrices R, computed, in one line of ASCII.

    tinylora:2:<factors digest>:<k>:<base64 of float32 little-endian (modules, k, k)>

Design decision: R travels instead of vector and recipe, so that the engine only copies. It draws no projections and
knows no recipes; an adapter never seen before costs its step what a known one does, and nothing about a recipe can fail
there. The line is longer than the vector (4 kB for a 7B and rank 2) and shorter than a prompt of some thousand tokens.
"""

import base64
import binascii

import numpy as np
import torch
from torch import Tensor

from adapters.apply.reconstruct import leading_matrices, padded
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError, FactorsError, VectorError

PREFIX = "tinylora:2:"


def engine_form(adapter: Adapter, factors: Factors, projections_MUE: Tensor | None = None) -> str:
    """The line for `adapter`. Raises as `leading_matrices`."""
    r_MKK = leading_matrices(adapter, factors, projections_MUE)
    data = np.ascontiguousarray(r_MKK.numpy(), "<f4").tobytes()
    return f"{PREFIX}{factors.digest}:{r_MKK.shape[-1]}:{base64.b64encode(data).decode('ascii')}"


def read_engine_form(text: str, factors: Factors) -> Tensor:
    """R of every module from its line, float32 (M, r, r) with r = factors.rank. Raises as `parse_engine_form`."""
    r_MKK = parse_engine_form(text, factors.digest, len(factors.modules), factors.rank)
    return padded(r_MKK, factors.rank)


def parse_engine_form(text: str, factors: str, modules: int, max_rank: int) -> Tensor:
    """R of every module from its line, float32 (modules, k, k).

    Raises AdapterError when it is no such line, belongs to other factors than those of digest `factors`, or k is more
    than `max_rank`.
    """
    if not isinstance(text, str) or not text.startswith(PREFIX):
        raise AdapterError(f"an adapter for the engine begins with {PREFIX!r}, got {text!r:.40}", field="adapter")
    digest, _, rest = text[len(PREFIX) :].partition(":")
    rank, _, encoded = rest.partition(":")
    if digest != factors:
        raise FactorsError(
            f"the adapter was made for the factors {digest!r:.80}, the engine has {factors}", field="factors"
        )
    if not rank.isascii() or not rank.isdigit() or len(rank) > 2 or not 1 <= int(rank) <= max_rank:
        raise FactorsError(f"the adapter has the rank {rank!r:.20}, expected 1 to {max_rank}", field="rank")
    size = (modules, int(rank), int(rank))
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VectorError(f"the matrices are not base64: {error}", field="vector") from error
    if len(data) != 4 * size[0] * size[1] * size[2]:
        raise VectorError(f"the matrices have {len(data)} bytes, expected {size} in float32", field="vector")
    r_MKK = torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(size))
    if not bool(torch.isfinite(r_MKK).all()):
        raise VectorError("the matrices contain NaN or infinity", field="vector")
    return r_MKK
