"""The fixed random matrices P that spread a few numbers over R, by the rule that a recipe names.

PEFT's rule (a torch generator seeded with the module's position) exists beside our own (projection_draw.py) for reading
PEFT's checkpoints; it is as reproducible as torch is.
"""

import torch
from torch import Tensor

from adapters.vector.projection_draw import draw
from adapters.vector.recipe import Recipe


def projection(recipe: Recipe, module: str, module_index: int) -> Tensor:
    """P of one module, float32 (u, k, k) with k = the recipe's rank.

    module: its Hugging Face name. module_index: its position among the adapted modules, which only `peft` uses.
    """
    size = (recipe.u, recipe.rank, recipe.rank)
    if recipe.projection == "elementary":
        return torch.eye(recipe.u).reshape(size)
    if recipe.projection == "peft":
        # PEFT 0.21, TinyLoraLayer._init_projection
        generator = torch.Generator().manual_seed(recipe.seed + module_index)
        return torch.normal(mean=0.0, std=1.0 / recipe.rank**0.5, size=size, generator=generator)
    return torch.from_numpy(draw(recipe, module))
