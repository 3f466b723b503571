"""The recipes of whoever names none: of adapters that are uploaded, and of those that gradients train."""

import math
from dataclasses import replace

from adapters.factors.factors import Factors
from adapters.vector.recipe import Recipe

# Groups of a vector that gradients train in a model of fewer adapted weights than LARGE.
GROUPS_OF_SMALL = 196
LARGE = 5_000_000_000


def default_recipe(factors: Factors) -> Recipe:
    """`Recipe()`, 13 groups of one number; fewer groups for fewer modules, a lower rank for factors of a lower one."""
    usual = Recipe()
    return Recipe(rank=min(usual.rank, factors.rank), groups=min(usual.groups, len(factors.modules)))


def trained_recipe(factors: Factors) -> Recipe:
    """For training by gradient: `default_recipe` of a large model, more groups for a small one.

    The smaller the model, the more numbers it takes to move it: arXiv 2602.04118 trains Qwen2.5-7B with 13, where 3B
    gets half as far with 16 as with 252 (table 2), and 0.5B nowhere (figure 6). docs/evidence.md has what SmolLM2-135M
    gains with 1, 13 and 196. Design decision: not 196 for every model, for 13 are shown to do in large ones.
    """
    if sum(math.prod(factors.weight_shape(module)) for module in factors.modules) >= LARGE:
        return default_recipe(factors)
    return replace(default_recipe(factors), groups=min(GROUPS_OF_SMALL, len(factors.modules)))
