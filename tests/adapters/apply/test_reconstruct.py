"""From v to R and to weights, against PEFT's own layers, and against the formulas written out one module at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import TinyLoraConfig, get_peft_model
from torch import Tensor

from adapters.apply.reconstruct import delta_weight, matrices, merge
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError, RecipeError
from adapters.vector.mixing import mix
from adapters.vector.projection import projection
from adapters.vector.recipe import Recipe, group_of
from tests.adapters.tiny_models import ALL_TARGETS, load_model, save_model

MODULES = 14


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def factors(llama: Path) -> Factors:
    return build_factors(llama, rank=2, progress=False)


def random_adapter(recipe: Recipe, factors: Factors, seed: int = 0) -> Adapter:
    v_GU = torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(seed))
    return Adapter.from_vector(v_GU, recipe, factors.digest, "float32")


def written_out(adapter: Adapter, factors: Factors, module: str) -> Tensor:
    """delta W of one module in float64, term by term."""
    recipe, index = adapter.recipe, factors.modules.index(module)
    v_U = adapter.vector()[group_of(recipe, factors.modules)[index]].double()
    p_UKK = projection(recipe, module, index).double()
    r_KK = sum(v_U[i] * p_UKK[i] for i in range(recipe.u))
    u, s, v = (part.double()[..., : recipe.rank] for part in factors.triplet(module))
    if recipe.convention == "sqrt":
        return u @ torch.diag(s.sqrt()) @ r_KK @ torch.diag(s.sqrt()) @ v.T
    return u @ torch.diag(s) @ r_KK @ v.T


RECIPES = {
    "default": Recipe(),
    "many numbers": Recipe(u=13, groups=1),
    "structured": Recipe(groups=7, tying="structured", seed=5),
    "sqrt": Recipe(convention="sqrt", groups=5),
    "peft": Recipe(u=3, groups=4, seed=9, projection="peft", convention="sqrt"),
    "LoRA-XS": Recipe(u=4, groups=MODULES, projection="elementary"),
    "lower rank": Recipe(rank=1, u=2),
    "lower rank, LoRA-XS, sqrt": Recipe(rank=1, u=1, groups=MODULES, projection="elementary", convention="sqrt"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_delta_weight_is_the_formula(factors: Factors, recipe: Recipe) -> None:
    adapter = random_adapter(recipe, factors)
    for module in factors.modules:
        expected = written_out(adapter, factors, module)
        torch.testing.assert_close(delta_weight(adapter, factors, module).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_matrices_have_the_factors_rank_and_order(factors: Factors, recipe: Recipe) -> None:
    adapter = random_adapter(recipe, factors)
    r_MRR = matrices(adapter, factors)
    assert (r_MRR.shape, r_MRR.dtype) == ((MODULES, 2, 2), torch.float32)
    for module, r_RR in zip(factors.modules, r_MRR, strict=True):
        u, s, v = factors.triplet(module)
        torch.testing.assert_close((u * s) @ r_RR @ v.T, delta_weight(adapter, factors, module))


def test_a_lora_xs_vector_is_the_matrices_themselves(factors: Factors) -> None:
    adapter = random_adapter(RECIPES["LoRA-XS"], factors)
    assert torch.equal(matrices(adapter, factors), adapter.vector().reshape(MODULES, 2, 2))


@pytest.mark.parametrize(("u", "groups"), [(1, 13), (13, 1), (64, 4), (2, MODULES)])
def test_the_peft_recipe_gives_the_delta_weights_of_pefts_own_layers(
    llama: Path, factors: Factors, u: int, groups: int
) -> None:
    config = TinyLoraConfig(
        r=2,
        u=u,
        weight_tying=1 - groups / MODULES,
        projection_seed=3,
        target_modules=ALL_TARGETS,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(load_model(llama), config)
    recipe = Recipe(u=u, groups=groups, seed=3, projection="peft", convention="sqrt")
    adapter = random_adapter(recipe, factors)
    for group, vector in model.base_model.tinylora_v["default"].items():
        vector.data.copy_(adapter.vector()[int(group)])
    for module in factors.modules:
        layer = model.get_submodule(f"base_model.model.{module}")
        # LAPACK leaves the signs of singular vectors open; ours are canonical.
        signs = torch.sign((layer.tinylora_B["default"] * factors.triplet(module)[0]).sum(dim=0))
        layer.tinylora_B["default"] *= signs
        layer.tinylora_A["default"] *= signs[:, None]
        expected = layer.get_delta_weight("default")
        torch.testing.assert_close(delta_weight(adapter, factors, module), expected, rtol=1e-4, atol=1e-5)


def test_the_matrices_of_a_mixture_are_the_mixture_of_the_matrices(factors: Factors) -> None:
    first, second = (random_adapter(Recipe(u=3), factors, seed) for seed in (1, 2))
    expected = 0.25 * matrices(first, factors) - 2 * matrices(second, factors)
    torch.testing.assert_close(matrices(mix([(first, 0.25), (second, -2)]), factors), expected)


def test_a_zero_vector_changes_nothing(factors: Factors) -> None:
    adapter = Adapter(Recipe(), factors.digest, "bfloat16", bytes(26))
    assert not matrices(adapter, factors).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_adds_delta_weight_and_leaves_the_weight_alone(factors: Factors, dtype: torch.dtype) -> None:
    adapter, module = random_adapter(Recipe(), factors), factors.modules[3]
    weight = torch.randn(32, 32).to(dtype)
    before = weight.clone()
    merged = merge(weight, adapter, factors, module)
    assert merged.dtype == dtype
    assert torch.equal(merged, (before.float() + delta_weight(adapter, factors, module)).to(dtype))
    assert torch.equal(weight, before)


def test_a_singular_value_of_zero_gives_finite_matrices(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    model = load_model(path)
    for parameter in model.model.layers[0].self_attn.parameters():
        parameter.data.zero_()
    model.save_pretrained(path)
    factors = build_factors(path, progress=False)
    adapter = random_adapter(Recipe(convention="sqrt"), factors)
    assert torch.isfinite(matrices(adapter, factors)).all()
    assert not delta_weight(adapter, factors, factors.modules[0]).any()


def test_an_adapter_of_other_factors_is_refused(factors: Factors) -> None:
    adapter = replace(random_adapter(Recipe(), factors), factors="0f" * 32)
    with pytest.raises(FactorsError, match=factors.digest) as error:
        matrices(adapter, factors)
    assert error.value.field == "factors"


def test_an_adapter_of_higher_rank_is_refused(factors: Factors) -> None:
    with pytest.raises(FactorsError, match="rank 3"):
        matrices(random_adapter(Recipe(rank=3), factors), factors)


def test_an_adapter_with_more_groups_than_modules_is_refused(factors: Factors) -> None:
    with pytest.raises(RecipeError, match="at most"):
        matrices(random_adapter(Recipe(groups=MODULES + 1), factors), factors)


def test_merging_into_a_weight_of_another_shape_is_refused(factors: Factors) -> None:
    with pytest.raises(FactorsError, match=r"\(3, 3\)"):
        merge(torch.zeros(3, 3), random_adapter(Recipe(), factors), factors, factors.modules[0])
