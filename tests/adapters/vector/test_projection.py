"""Projections: golden values that must hold on every machine for ever, and PEFT's own draws."""

import hashlib

import pytest
import torch
from peft import TinyLoraConfig, get_peft_model
from torch import nn

from adapters.vector.projection import projection
from adapters.vector.recipe import Recipe

MODULE = "model.layers.0.self_attn.q_proj"


def test_golden_values_of_the_default_recipe() -> None:
    # float32 bit patterns, so that not even the last bit may move.
    p_UKK = projection(Recipe(), MODULE, 0)
    assert p_UKK.shape == (1, 2, 2)
    assert p_UKK.view(torch.int32).flatten().tolist() == [1057619438, 1044508853, -1100228231, 1044860012]


def test_golden_digest_of_a_larger_projection() -> None:
    p_UKK = projection(Recipe(rank=3, u=5, seed=2**63 - 1), "model.layers.27.mlp.down_proj", 195)
    digest = hashlib.sha256(p_UKK.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == "fbd17bbcb88b93f200ffcbe1a74731f8572ebc12f011a0b8d2fcf3f57ac7366a"


def test_a_projection_is_made_of_the_documented_hash() -> None:
    recipe = Recipe(rank=2, u=3, seed=7)
    key = b"tinylora projection 1\0" + (7).to_bytes(8, "little") + (2).to_bytes(4, "little") + MODULE.encode() + b"\0"
    digest = hashlib.sha256(key + (3).to_bytes(8, "little")).digest()
    total = sum(int.from_bytes(digest[i : i + 2], "little") for i in range(0, 32, 2)) - 524280
    expected = total / (2 * 16 * (2**32 - 1) / 12) ** 0.5
    assert projection(recipe, MODULE, 0)[2, 1, 1].item() == pytest.approx(expected, rel=1e-6)


def test_a_projection_does_not_depend_on_where_its_module_stands() -> None:
    recipe = Recipe(u=4)
    assert torch.equal(projection(recipe, MODULE, 0), projection(recipe, MODULE, 195))


def test_module_seed_and_i_each_change_the_projection() -> None:
    base = projection(Recipe(u=2), MODULE, 0)
    assert not torch.equal(base, projection(Recipe(u=2), "model.layers.1.self_attn.q_proj", 0))
    assert not torch.equal(base, projection(Recipe(u=2, seed=1), MODULE, 0))
    assert not torch.equal(base[0], base[1])


def test_a_longer_vector_keeps_the_projections_of_the_shorter_one() -> None:
    assert torch.equal(projection(Recipe(u=9), MODULE, 0)[:4], projection(Recipe(u=4), MODULE, 0))


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_entries_have_mean_zero_and_variance_one_over_rank(rank: int) -> None:
    p_UKK = projection(Recipe(rank=rank, u=128), MODULE, 0)
    standard_error = (p_UKK.numel() * rank) ** -0.5
    assert abs(p_UKK.mean().item()) < 4 * standard_error
    assert p_UKK.square().mean().item() * rank == pytest.approx(1.0, abs=6 / p_UKK.numel() ** 0.5)


def test_elementary_projections_are_the_unit_matrices_in_row_major_order() -> None:
    p_UKK = projection(Recipe(rank=3, u=9, projection="elementary"), MODULE, 0)
    r_RR = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(torch.einsum("u,uij->ij", r_RR.flatten(), p_UKK), r_RR)


@pytest.mark.parametrize(("rank", "u"), [(2, 1), (2, 64), (4, 3)])
def test_the_peft_rule_draws_what_peft_draws(rank: int, u: int) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    config = TinyLoraConfig(r=rank, u=u, projection_seed=11, target_modules=["0", "1", "2"])
    peft_model = get_peft_model(model, config)
    recipe = Recipe(rank=rank, u=u, groups=3, seed=11, projection="peft", convention="sqrt")
    for index in range(3):
        theirs = peft_model.base_model.model[index].tinylora_P["default"]
        assert torch.equal(projection(recipe, "whatever", index), theirs)
