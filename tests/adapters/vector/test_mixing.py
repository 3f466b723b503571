"""Mixing adapters is arithmetic on vectors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError, VectorError
from adapters.vector.mixing import mix, scale
from adapters.vector.recipe import DType, Recipe

FACTORS = "0f" * 32
weights = st.floats(-10, 10)


def adapter(seed: int, dtype: DType = "bfloat16", recipe: Recipe | None = None, factors: str = FACTORS) -> Adapter:
    recipe = recipe or Recipe()
    v_GU = torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(seed))
    return Adapter.from_vector(v_GU, recipe, factors, dtype)


@given(weights, weights, weights)
def test_a_mixture_is_the_weighted_sum_of_the_vectors(first: float, second: float, third: float) -> None:
    parts = [(adapter(1), first), (adapter(2, "float16"), second), (adapter(3, "float32"), third)]
    expected = sum(weight * part.vector().double() for part, weight in parts)
    mixed = mix(parts)
    assert mixed.dtype == "float32"
    assert (mixed.recipe, mixed.factors) == (Recipe(), FACTORS)
    torch.testing.assert_close(mixed.vector(), expected.float(), rtol=0, atol=0)


@given(weights)
def test_scaling_scales_the_vector(weight: float) -> None:
    expected = (weight * adapter(1).vector().double()).float()
    torch.testing.assert_close(scale(adapter(1), weight).vector(), expected, rtol=0, atol=0)


def test_an_adapter_minus_itself_is_zero() -> None:
    assert not mix([(adapter(1), 0.3), (adapter(1), -0.3)]).vector().any()


def test_mixtures_of_nothing_and_of_strangers_are_refused() -> None:
    with pytest.raises(AdapterError, match="at least one"):
        mix([])
    with pytest.raises(AdapterError, match="same recipe"):
        mix([(adapter(1), 1.0), (adapter(1, recipe=Recipe(seed=1)), 1.0)])
    with pytest.raises(AdapterError, match="same factors"):
        mix([(adapter(1), 1.0), (adapter(1, factors="0e" * 32), 1.0)])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(weight: float) -> None:
    with pytest.raises(AdapterError) as error:
        scale(adapter(1), weight)
    assert error.value.field == "weight"


def test_a_sum_too_large_for_float32_is_refused() -> None:
    with pytest.raises(VectorError):
        scale(adapter(1), 1e300)
