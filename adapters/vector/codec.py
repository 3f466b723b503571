"""A vector as bytes and back: little-endian bfloat16, float16 or float32, row by row, without a header.

The length follows from the recipe and is checked exactly, and only finite numbers are accepted, so every byte string
that decodes is a usable vector and encodes to the same bytes again.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adapters.vector.errors import VectorError
from adapters.vector.recipe import DType, Recipe

_NAMES: dict[str, DType] = {
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16",
    "float32": "float32", "fp32": "float32",
}  # fmt: skip
_TORCH: dict[DType, torch.dtype] = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32,
}  # fmt: skip
_BITS: dict[DType, tuple[torch.dtype, str]] = {
    "bfloat16": (torch.int16, "<i2"), "float16": (torch.int16, "<i2"), "float32": (torch.int32, "<i4"),
}  # fmt: skip

# Trained vectors stay below 1. Far beyond this bound activations overflow, and answers become NaN.
MAX_MAGNITUDE = 1e4


def parse_dtype(name: str) -> DType:
    """The dtype called `name`: bfloat16, float16, float32 or bf16, fp16, fp32. Raises VectorError."""
    if not isinstance(name, str) or name not in _NAMES:
        raise VectorError(f"dtype must be one of {', '.join(_NAMES)}, got {name!r:.80}", field="dtype")
    return _NAMES[name]


def encode(v_GU: Tensor, dtype: DType) -> bytes:
    """The bytes of v (groups, u), rounded to nearest even in `dtype`.

    Raises VectorError for a tensor of other than two dimensions, and for NaN, infinity or a number too large for
    `dtype`.
    """
    if v_GU.ndim != 2:
        raise VectorError(f"a vector must have the shape (groups, u), got {tuple(v_GU.shape)}", field="vector")
    dtype = parse_dtype(dtype)
    rounded = v_GU.detach().to("cpu", _TORCH[dtype])
    if not bool(torch.isfinite(rounded).all()):
        raise VectorError(
            f"the vector contains NaN, infinity or a number too large for {dtype} (at most "
            f"{torch.finfo(rounded.dtype).max:.6g}); the largest magnitude is {v_GU.abs().max().item():.6g}",
            field="vector",
        )
    bits, little_endian = _BITS[dtype]
    return rounded.contiguous().view(bits).numpy().astype(little_endian).tobytes()


def decode(data: bytes, recipe: Recipe, dtype: DType) -> Tensor:
    """v, float32 (groups, u). VectorError for a wrong length, and for numbers not finite or beyond MAX_MAGNITUDE."""
    return torch.from_numpy(numbers(data, recipe, dtype))


def numbers(data: bytes, recipe: Recipe, dtype: DType) -> NDArray[np.float32]:
    """As `decode`, but a NumPy array, which for so few numbers takes a fraction of the time."""
    dtype = parse_dtype(dtype)
    little_endian = _BITS[dtype][1]
    of_group = recipe.u * np.dtype(little_endian).itemsize
    expected = recipe.groups * of_group
    if len(data) != expected:
        groups, rest = divmod(len(data), of_group)
        advice = f"; if it has {groups} groups, give its recipe: groups {groups}" if groups and not rest else ""
        raise VectorError(
            f"a vector of {recipe.groups} groups x {recipe.u} in {dtype} has {expected} bytes, got {len(data)}{advice}",
            field="vector",
        )
    v_GU = _float32(data, dtype).reshape(recipe.groups, recipe.u)
    largest = float(np.abs(v_GU).max())
    if not math.isfinite(largest):  # the largest of numbers with a NaN among them is NaN
        raise VectorError("the vector contains NaN or infinity", field="vector")
    if largest > MAX_MAGNITUDE:
        raise VectorError(
            f"the numbers of a vector must be within +-{MAX_MAGNITUDE:g}, got one of magnitude {largest:.6g}; useful "
            "ones are far below 1",
            field="vector",
        )
    return v_GU


def _float32(data: bytes, dtype: DType) -> NDArray[np.float32]:
    if dtype == "bfloat16":  # the upper half of a float32, which NumPy has no type for
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype="<f2" if dtype == "float16" else "<f4").astype(np.float32)
