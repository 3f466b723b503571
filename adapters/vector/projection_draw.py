"""Drawing this project's random projections with NumPy alone, so that a small process can do it (projection_worker.py).

P of a module follows from SHA-256 of (seed, module name, i) alone: it is the same on every machine and for every order
or subset of modules, so it is never stored or sent.

The entries have variance 1 / k, k the rank, as PEFT's have. A column of P then has expected squared length 1, so the
size of `S R` against S, and with it the useful size of v, does not depend on the rank.
"""

import math

import numpy as np
from numpy.typing import NDArray

from adapters.vector.recipe import Recipe
from adapters.vector.sha256_stream import VARIANCE, centred_sums


def draw(recipe: Recipe, module: str) -> NDArray[np.float32]:
    """P of one module, float32 (u, k, k) with k = the recipe's rank; `module` is its Hugging Face name."""
    entries = recipe.rank**2
    scale = 1.0 / math.sqrt(recipe.rank * VARIANCE)
    sums = np.concatenate([centred_sums(_key(recipe.seed, module, i), entries) for i in range(recipe.u)])
    return (sums * scale).astype(np.float32).reshape(recipe.u, recipe.rank, recipe.rank)


def _key(seed: int, module: str, i: int) -> bytes:
    # Fixed-width numbers first, so that no two (seed, i, module) share a key.
    return b"tinylora projection 1\0" + seed.to_bytes(8, "little") + i.to_bytes(4, "little") + module.encode() + b"\0"
