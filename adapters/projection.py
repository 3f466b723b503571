"""The fixed random matrices P that spread a few numbers over R.

Design decision: P of a module follows from SHA-256 of (seed, module name, i) alone. It is the same on every machine and
for every order or subset of modules, and is therefore never stored or sent. PEFT's rule (a torch generator seeded with
the module's position) exists beside it for reading PEFT's checkpoints, with the reproducibility torch gives it.

The entries have variance 1 / r, as PEFT's have: a column of P then has expected squared length 1, so the size of
`S R` against S, and with it the useful size of v, does not depend on the rank.
"""

import math

import numpy as np
import torch
from torch import Tensor

from adapters.recipe import Recipe
from adapters.sha256_stream import VARIANCE, centred_sums


def projection(recipe: Recipe, module: str, module_index: int) -> Tensor:
    """P of one module, float32 (u, r, r), r the recipe's rank.

    `module` is the Hugging Face name; `module_index`, its position among the adapted modules, matters only to `peft`.
    """
    size = (recipe.u, recipe.rank, recipe.rank)
    if recipe.projection == "elementary":
        return torch.eye(recipe.u).reshape(size)
    if recipe.projection == "peft":
        # PEFT 0.21, TinyLoraLayer._init_projection
        generator = torch.Generator().manual_seed(recipe.seed + module_index)
        return torch.normal(mean=0.0, std=1.0 / recipe.rank**0.5, size=size, generator=generator)
    entries = recipe.rank**2
    scale = 1.0 / math.sqrt(recipe.rank * VARIANCE)
    sums = np.concatenate([centred_sums(_key(recipe.seed, module, i), entries) for i in range(recipe.u)])
    return torch.from_numpy((sums * scale).astype(np.float32)).reshape(size)


def _key(seed: int, module: str, i: int) -> bytes:
    # Fixed-width numbers first, so that no two (seed, i, module) share a key.
    return b"tinylora projection 1\0" + seed.to_bytes(8, "little") + i.to_bytes(4, "little") + module.encode() + b"\0"
