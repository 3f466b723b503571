"""The recipe of whoever names none: 13 groups of one number, or as many as the base model has modules."""

from adapters.factors.factors import Factors
from adapters.vector.recipe import Recipe


def default_recipe(factors: Factors) -> Recipe:
    """The largest default that `factors` can serve: `Recipe()`, with fewer groups for fewer modules, a lower rank for
    factors of a lower one."""
    usual = Recipe()
    return Recipe(rank=min(usual.rank, factors.rank), groups=min(usual.groups, len(factors.modules)))
