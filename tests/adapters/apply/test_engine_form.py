"""What the engine is given of an adapter holds its matrices bit for bit, and nothing else is taken for it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.apply.engine_form import engine_form, read_engine_form
from adapters.apply.reconstruct import draw_projections, matrices
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.errors import AdapterError
from adapters.vector.recipe import Recipe
from tests.adapters.apply.test_reconstruct import RECIPES, random_adapter
from tests.adapters.tiny_models import save_model


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Factors:
    return build_factors(save_model(tmp_path_factory.mktemp("base")), rank=2, progress=False)


@pytest.mark.parametrize("name", RECIPES)
def test_matrices_come_out_as_they_went_in(factors: Factors, name: str) -> None:
    adapter = random_adapter(RECIPES[name], factors)
    form = engine_form(adapter, factors)
    assert form.isascii() and form.isprintable()
    assert torch.equal(read_engine_form(form, factors), matrices(adapter, factors))
    if RECIPES[name].projection != "elementary":
        drawn = draw_projections(RECIPES[name], factors.modules)
        assert engine_form(adapter, factors, drawn) == form


def test_only_the_recipes_own_rank_travels(factors: Factors) -> None:
    low, full = (engine_form(random_adapter(Recipe(rank=rank), factors), factors) for rank in (1, 2))
    assert len(low) < len(full) / 2


def test_other_factors_are_refused(factors: Factors, tmp_path: Path) -> None:
    other = build_factors(save_model(tmp_path, seed=1), rank=2, progress=False)
    form = engine_form(random_adapter(Recipe(), factors), factors)
    with pytest.raises(AdapterError, match=f"made for the factors .*{factors.digest}"):
        read_engine_form(form, other)


@given(text=st.text(), place=st.integers(0, 4))
def test_any_other_line_is_refused_as_an_adapter(factors: Factors, text: str, place: int) -> None:
    parts = engine_form(random_adapter(Recipe(), factors), factors).split(":")
    parts[place] = text
    line = ":".join(parts)
    if line == engine_form(random_adapter(Recipe(), factors), factors):
        return
    with pytest.raises(AdapterError):
        read_engine_form(line, factors)


@pytest.mark.parametrize("rank", ["0", "3", "99", "1", "-1", "2.0", "\u00b2", ""])
def test_a_rank_that_is_not_that_of_the_matrices_is_refused(factors: Factors, rank: str) -> None:
    parts = engine_form(random_adapter(Recipe(), factors), factors).split(":")
    with pytest.raises(AdapterError):
        read_engine_form(":".join([*parts[:3], rank, parts[4]]), factors)
