"""From an adapter to what a model can use: one R per module, or, offline, the change of a weight.

Everything that does not depend on v (the group of each module, the projections) is computed once per recipe and kept,
so an adapter never seen before costs one small batched product. R comes out in one convention, `W' = W + U S R V^T`,
whatever the recipe's.
"""

from functools import lru_cache

import torch
from torch import Tensor

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError
from adapters.vector.projection import projection
from adapters.vector.recipe import Recipe, group_of


def matrices(adapter: Adapter, factors: Factors) -> Tensor:
    """R of every module, in the order of `factors.modules`: float32 (M, r, r) with r = factors.rank.

    A recipe of lower rank uses the leading singular vectors; the rest of R is zero. Raises as `leading_matrices`.
    """
    return padded(leading_matrices(adapter, factors), factors.rank)


def leading_matrices(adapter: Adapter, factors: Factors, projections_MUE: Tensor | None = None) -> Tensor:
    """R of every module without the zeros of higher ranks: float32 (M, k, k) with k = the recipe's rank.

    projections_MUE: P of all modules, float32 (M, u, k * k); None: they are drawn here, which can take seconds.

    Raises FactorsError when the adapter was made for other factors or has a higher rank, RecipeError when it has more
    groups than there are modules. Differentiable in the vector.
    """
    recipe = adapter.recipe
    if adapter.factors != factors.digest:
        raise FactorsError(
            f"the adapter was made for the factors {adapter.factors}, this model has {factors.digest} "
            f"({factors.base_model}); import or train it for this base model",
            field="factors",
        )
    if recipe.rank > factors.rank:
        raise FactorsError(
            f"the adapter has rank {recipe.rank}, the factors of {factors.base_model} have rank {factors.rank}; "
            "serve the model with factors of a higher rank",
            field="rank",
        )
    rank = recipe.rank
    v_MU = adapter.vector()[_groups(recipe, factors.modules)]
    if recipe.projection == "elementary":
        r_MKK = v_MU.reshape(-1, rank, rank)
    else:
        if projections_MUE is None:
            projections_MUE = _projections(recipe, factors.modules)
        r_MKK = torch.bmm(v_MU[:, None], projections_MUE).reshape(-1, rank, rank)
    if recipe.convention == "sqrt":
        root_MK = factors.singular_values[:, :rank].sqrt()
        # S^-1/2 R S^1/2. A row with singular value zero is multiplied by it later, so zero is exact there.
        inverse_MK = torch.where(root_MK > 0, 1 / root_MK, 0.0)
        r_MKK = inverse_MK[:, :, None] * r_MKK * root_MK[:, None, :]
    return r_MKK


def padded(r_MKK: Tensor, rank: int) -> Tensor:
    """(M, rank, rank) from (M, k, k): zero outside the leading k x k."""
    missing = rank - r_MKK.shape[-1]
    return torch.nn.functional.pad(r_MKK, (0, missing, 0, missing)) if missing else r_MKK


def delta_weight(adapter: Adapter, factors: Factors, module: str) -> Tensor:
    """`U S R V^T` of one module, float32 (out, in). Raises FactorsError as `matrices` and for an unknown module."""
    u_OR, s_R, v_IR = factors.triplet(module)
    r_RR = matrices(adapter, factors)[factors.modules.index(module)]
    return (u_OR * s_R) @ r_RR @ v_IR.T


def merge(weight_OI: Tensor, adapter: Adapter, factors: Factors, module: str) -> Tensor:
    """`W + delta W` in the dtype of `weight_OI` (out, in), which is not changed.

    In bfloat16 rounding removes most of a small delta W; serve the adapter instead where that matters.
    Raises FactorsError, also when the weight has another shape than the module.
    """
    delta_OI = delta_weight(adapter, factors, module)
    if weight_OI.shape != delta_OI.shape:
        raise FactorsError(
            f"the weight of {module} has the shape {tuple(weight_OI.shape)}, the factors of {factors.base_model} say "
            f"{tuple(delta_OI.shape)}; use the weights the factors were built from"
        )
    return (weight_OI.float() + delta_OI.to(weight_OI.device)).to(weight_OI.dtype)


@lru_cache(maxsize=256)
def _groups(recipe: Recipe, modules: tuple[str, ...]) -> Tensor:
    return torch.tensor(group_of(recipe, modules))


def _projections(recipe: Recipe, modules: tuple[str, ...]) -> Tensor:
    """P of all modules, float32 (M, u, k * k), kept per recipe."""
    small = len(modules) * recipe.u * recipe.rank**2 <= SMALL_PROJECTIONS
    return (_small_projections if small else _large_projections)(recipe, modules)


def draw_projections(recipe: Recipe, modules: tuple[str, ...]) -> Tensor:
    """P of all modules, drawn anew: float32 (M, u, k * k)."""
    return torch.stack([projection(recipe, module, index) for index, module in enumerate(modules)]).flatten(2)


# Numbers in projections that count as small. Every tenant may have a recipe (seed) of its own: 1024 small ones take at
# most 256 MB, while a large one takes up to 37 MB (recipe.MAX_PROJECTION_SIZE).
SMALL_PROJECTIONS = 2**16
_small_projections = lru_cache(maxsize=1024)(draw_projections)
_large_projections = lru_cache(maxsize=16)(draw_projections)
