"""Recipes and tying, against the counts the paper reports and PEFT's own grouping."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import TinyLoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.vector.errors import RecipeError
from adapters.vector.recipe import Recipe, group_of

TYPES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

recipes = st.builds(
    Recipe,
    rank=st.integers(1, 8),
    u=st.integers(1, 64),
    groups=st.integers(1, 65536),
    tying=st.sampled_from(["tiled", "structured"]),
    seed=st.integers(0, 2**63 - 1),
    convention=st.sampled_from(["paper", "sqrt"]),
)


def names(layers: int) -> list[str]:
    return [f"model.layers.{layer}.x.{kind}" for layer in range(layers) for kind in TYPES]


@given(recipes)
def test_a_recipe_survives_json_and_the_canonical_form_is_unique(recipe: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe.from_dict(json.loads(recipe.canonical_json())).canonical_json() == recipe.canonical_json()


def test_the_default_recipe_has_13_numbers() -> None:
    assert Recipe().num_parameters == 13
    assert Recipe.from_dict({}) == Recipe()


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 65}, "rank"),
        ({"rank": True}, "rank"),
        ({"rank": 2.0}, "rank"),
        ({"u": 4097}, "u"),
        ({"u": "1"}, "u"),
        ({"groups": 0}, "groups"),
        ({"groups": None}, "groups"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"tying": "diagonal"}, "tying"),
        ({"tying": ["tiled"]}, "tying"),
        ({"projection": 3}, "projection"),
        ({"convention": {}}, "convention"),
        ({"projection": "elementary", "u": 3}, "u"),
        ({"projection": "peft", "tying": "structured"}, "tying"),
        ({"rank": 64, "u": 5}, "u"),
        ({"colour": 1}, "recipe"),
        ([("rank", 2)], "recipe"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_name_of_its_field(values: Any, field: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_dict(values)
    assert error.value.field == field
    assert error.value.message


# arXiv 2602.04118, figure 1: parameter counts of Qwen2.5-7B, 196 modules, with n_tie modules sharing one number.
@pytest.mark.parametrize(("n_tie", "groups"), [(16, 13), (8, 25), (4, 49), (2, 98), (1, 196)])
def test_tiled_groups_have_the_papers_sizes(n_tie: int, groups: int) -> None:
    sizes = Counter(group_of(Recipe(groups=groups), names(28)))
    assert len(sizes) == groups
    assert all(sizes[group] == n_tie for group in range(groups - 1))


def test_thirteen_groups_of_196_modules_are_twelve_of_16_and_one_of_4_in_depth_order() -> None:
    groups = group_of(Recipe(), names(28))
    assert groups == tuple(index // 16 for index in range(196))


@given(st.integers(1, 40), st.integers(1, 280))
def test_tiled_tying_is_monotone_and_leaves_no_group_empty(layers: int, groups: int) -> None:
    modules = names(layers)
    if groups > len(modules):
        with pytest.raises(RecipeError, match="at most"):
            group_of(Recipe(groups=groups), modules)
        return
    result = group_of(Recipe(groups=groups), modules)
    assert list(result) == sorted(result)
    assert set(result) == set(range(groups))


@given(st.integers(1, 20), st.integers(7, 140))
def test_structured_tying_never_mixes_types_and_leaves_no_group_empty(layers: int, groups: int) -> None:
    modules = names(layers)
    recipe = Recipe(groups=groups, tying="structured")
    if groups > len(modules):
        with pytest.raises(RecipeError):
            group_of(recipe, modules)
        return
    result = group_of(recipe, modules)
    assert set(result) == set(range(groups))
    types = {(group, module.rpartition(".")[2]) for group, module in zip(result, modules, strict=True)}
    assert len(types) == groups
    for kind in TYPES:
        of_kind = [group for group, module in zip(result, modules, strict=True) if module.endswith(kind)]
        assert of_kind == sorted(of_kind)


# Figure 4: structured tying of the 36 layers of Qwen2.5-3B has 7 * ceil(36 / n_tie) numbers.
@pytest.mark.parametrize(("n_tie", "groups"), [(18, 14), (12, 21), (8, 35), (4, 63)])
def test_structured_groups_have_the_papers_sizes(n_tie: int, groups: int) -> None:
    sizes = Counter(group_of(Recipe(groups=groups, tying="structured"), names(36)))
    assert max(sizes.values()) == n_tie


def test_structured_tying_needs_a_group_for_every_type() -> None:
    with pytest.raises(RecipeError, match="at least 7") as error:
        group_of(Recipe(groups=6, tying="structured"), names(4))
    assert error.value.field == "groups"


@pytest.mark.parametrize("groups", [1, 3, 5, 13, 14, 20, 21])
def test_peft_recipes_are_tied_as_peft_ties_them(groups: int) -> None:
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=8
    )  # fmt: skip
    tying = TinyLoraConfig(u=1, r=1, weight_tying=1 - groups / 21, target_modules=TYPES)
    peft_model = get_peft_model(LlamaForCausalLM(config), tying)
    layers = {
        name.removeprefix("base_model.model."): int(module._tinylora_v_key["default"])
        for name, module in peft_model.named_modules()
        if hasattr(module, "tinylora_A")
    }
    recipe = Recipe(rank=1, groups=groups, projection="peft", convention="sqrt")
    assert group_of(recipe, list(layers)) == tuple(layers.values())
