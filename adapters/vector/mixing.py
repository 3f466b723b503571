"""Arithmetic on adapters: R is linear in v, so scaling, adding and interpolating adapters is arithmetic on vectors.

Design decision: the result is float32 whatever the dtypes of the inputs; rounded to one of them it would be another
mixture.
"""

import math
from collections.abc import Sequence

import torch

from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError


def scale(adapter: Adapter, weight: float) -> Adapter:
    """The adapter of weight * v. Raises AdapterError as `mix`."""
    return mix([(adapter, weight)])


def mix(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """The adapter of sum_i weight_i * v_i, in float32.

    Raises AdapterError when there are no parts, when they differ in recipe or factors, or when a weight is not finite;
    VectorError when a sum is too large for float32.
    """
    if not parts:
        raise AdapterError("a mixture needs at least one adapter", field="adapter")
    first = parts[0][0]
    for position, (adapter, weight) in enumerate(parts):
        if not math.isfinite(weight):
            raise AdapterError(f"weight {position} of the mixture must be finite, got {weight}", field="weight")
        for name in ("recipe", "factors"):
            if getattr(adapter, name) != getattr(first, name):
                raise AdapterError(
                    f"adapters mix only when they have the same {name}: number {position} has "
                    f"{getattr(adapter, name)}, number 0 has {getattr(first, name)}",
                    field="adapter",
                )
    sum_GU = torch.zeros(first.recipe.groups, first.recipe.u, dtype=torch.float64)
    for adapter, weight in parts:
        sum_GU += weight * adapter.vector().double()
    return Adapter.from_vector(sum_GU, first.recipe, first.factors, "float32")
