"""Trainable adapters in one batch, against merged weights and PEFT's own TinyLoRA one at a time, and finite
differences."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from adapters.apply.reconstruct import merge
from adapters.apply.trainable import BASE, TrainableAdapters
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError, RecipeError, VectorError
from adapters.vector.recipe import Recipe
from tests.adapters.peft_checkpoints import peft_model, with_our_signs
from tests.adapters.tiny_models import SHAPE, load_model, save_model

MODULES = 14
RECIPES = {
    "default": Recipe(),
    "many numbers": Recipe(u=13, groups=1),
    "structured": Recipe(groups=7, tying="structured", seed=5),
    "sqrt": Recipe(convention="sqrt", groups=5),
    "peft": Recipe(u=3, groups=4, seed=9, projection="peft", convention="sqrt"),
    "LoRA-XS": Recipe(u=4, groups=MODULES, projection="elementary"),
    "lower rank": Recipe(rank=1, u=2),
}
TOKENS_BT = torch.randint(SHAPE["vocab_size"], (len(RECIPES) + 1, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def any_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("any")
    if request.param != "qwen3":
        return save_model(directory, request.param)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen3Config(**SHAPE, head_dim=16)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def factors(path: Path) -> Factors:
    return build_factors(path, rank=2, progress=False)


@pytest.fixture
def model(path: Path, factors: Factors) -> TrainableAdapters:
    return TrainableAdapters(load_model(path), factors)


def random_adapter(recipe: Recipe, factors: Factors, seed: int = 0) -> Adapter:
    v_GU = torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(seed))
    return Adapter.from_vector(0.3 * v_GU / recipe.u**0.5, recipe, factors.digest, "float32")


def adapters_of(factors: Factors) -> list[Adapter]:
    return [random_adapter(recipe, factors, seed) for seed, recipe in enumerate(RECIPES.values())]


def merged_model(path: Path, adapter: Adapter, factors: Factors) -> PreTrainedModel:
    model = load_model(path)
    for module in factors.modules:
        weight = model.get_submodule(module).weight
        weight.data = merge(weight.data, adapter, factors, module)
    return model


def logits(model: PreTrainedModel, tokens_PT: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens_PT).logits


def loss(model: torch.nn.Module, tokens_PT: Tensor) -> Tensor:
    """Minus the log-probability of all tokens but the first, summed over the batch."""
    logprobs_PTV = model(input_ids=tokens_PT).logits.float().log_softmax(-1)
    return -logprobs_PTV[:, :-1].gather(-1, tokens_PT[:, 1:, None]).sum()


def gradients(model: TrainableAdapters, handles_P: list[int], tokens_PT: Tensor) -> dict[int, Tensor]:
    handles = sorted(set(handles_P) - {BASE})
    for handle in handles:
        model.vector(handle).grad = None
    with model.rows(handles_P):
        loss(model.model, tokens_PT).backward()
    return {handle: model.vector(handle).grad for handle in handles}


def test_every_row_of_a_batch_has_the_logits_of_its_own_merged_model(any_path: Path) -> None:
    factors = build_factors(any_path, rank=2, progress=False)
    model = TrainableAdapters(load_model(any_path), factors)
    adapters = adapters_of(factors)
    with model.rows([BASE] + [model.add(adapter) for adapter in adapters]):
        together_PTV = logits(model.model, TOKENS_BT)
    base_PTV = logits(load_model(any_path), TOKENS_BT)
    torch.testing.assert_close(together_PTV[0], base_PTV[0], rtol=1e-5, atol=1e-5)
    for row, adapter in enumerate(adapters, start=1):
        expected_PTV = logits(merged_model(any_path, adapter, factors), TOKENS_BT[row : row + 1])
        assert (expected_PTV[0] - base_PTV[row]).abs().max() > 0.1
        torch.testing.assert_close(together_PTV[row], expected_PTV[0], rtol=1e-3, atol=1e-3)


def test_logits_and_gradients_are_those_of_pefts_tinylora(path: Path, factors: Factors) -> None:
    peft = with_our_signs(peft_model(path, u=3, weight_tying=1 - 4 / MODULES, projection_seed=3), factors)
    vectors = [peft.base_model.tinylora_v["default"][str(group)] for group in range(4)]
    recipe = Recipe(u=3, groups=4, seed=3, projection="peft", convention="sqrt")
    model = TrainableAdapters(load_model(path), factors)
    handle = model.add(Adapter.from_vector(torch.stack(list(vectors)), recipe, factors.digest, "float32"))
    rows = [handle] * len(TOKENS_BT)
    loss(peft, TOKENS_BT).backward()
    with model.rows(rows):
        torch.testing.assert_close(logits(model.model, TOKENS_BT), logits(peft, TOKENS_BT), rtol=1e-3, atol=1e-3)
    expected = torch.stack([vector.grad for vector in vectors])
    torch.testing.assert_close(gradients(model, rows, TOKENS_BT)[handle], expected, rtol=1e-3, atol=1e-3)


def test_gradients_of_a_mixed_batch_are_those_of_each_adapter_alone(model: TrainableAdapters, factors: Factors) -> None:
    handles = [model.add(adapter) for adapter in adapters_of(factors)]
    together = gradients(model, [BASE, *handles], TOKENS_BT)
    for row, handle in enumerate(handles, start=1):
        alone = gradients(model, [handle], TOKENS_BT[row : row + 1])[handle]
        assert alone.abs().max() > 0.1
        torch.testing.assert_close(together[handle], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_gradients_are_the_finite_differences_of_merged_models(path: Path, factors: Factors, recipe: Recipe) -> None:
    adapter, step = random_adapter(recipe, factors), 1e-2
    model = TrainableAdapters(load_model(path), factors)
    handle = model.add(adapter)
    gradient_GU = gradients(model, [handle] * len(TOKENS_BT), TOKENS_BT)[handle]
    direction_GU = gradient_GU / gradient_GU.norm()

    def merged_loss(distance: float) -> Tensor:
        moved = Adapter.from_vector(adapter.vector() + distance * direction_GU, recipe, factors.digest, "float32")
        with torch.no_grad():
            return loss(merged_model(path, moved, factors), TOKENS_BT)

    slope = (merged_loss(step) - merged_loss(-step)) / (2 * step)
    torch.testing.assert_close(slope, gradient_GU.norm(), rtol=1e-2, atol=1e-3)


def test_a_zero_vector_has_a_gradient(model: TrainableAdapters, factors: Factors) -> None:
    handle = model.add(Adapter(Recipe(), factors.digest, "bfloat16", bytes(26)))
    assert gradients(model, [handle], TOKENS_BT[:1])[handle].abs().min() > 0


def test_a_vector_that_overflows_spoils_no_neighbour(model: TrainableAdapters, factors: Factors) -> None:
    good, bad = (model.add(random_adapter(Recipe(), factors, seed)) for seed in (1, 2))
    before = gradients(model, [good, bad], TOKENS_BT[:2])[good]
    model.set_vector(bad, torch.full((13, 1), 1e38))
    after = gradients(model, [good, bad], TOKENS_BT[:2])
    assert not after[bad].isfinite().all()
    torch.testing.assert_close(after[good], before)


def test_gradient_checkpointing_gives_the_same_gradients(path: Path, factors: Factors) -> None:
    model = TrainableAdapters(load_model(path), factors)
    handles = [model.add(adapter) for adapter in adapters_of(factors)]
    plain = gradients(model, [BASE, *handles], TOKENS_BT)
    model.model.train()
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    for handle, gradient in gradients(model, [BASE, *handles], TOKENS_BT).items():
        torch.testing.assert_close(gradient, plain[handle], rtol=1e-4, atol=1e-4)


def test_the_base_model_is_frozen_and_untouched_outside_rows(path: Path, factors: Factors) -> None:
    base = load_model(path)
    expected_PTV = logits(base, TOKENS_BT)
    before = {name: weight.clone() for name, weight in base.named_parameters()}
    model = TrainableAdapters(base, factors)
    gradients(model, [model.add(random_adapter(Recipe(), factors))] * len(TOKENS_BT), TOKENS_BT)
    assert torch.equal(logits(base, TOKENS_BT), expected_PTV)
    assert all(weight.grad is None and torch.equal(weight, before[name]) for name, weight in base.named_parameters())


def test_a_closed_model_adds_nothing_any_more(model: TrainableAdapters, factors: Factors) -> None:
    base_PTV = logits(model.model, TOKENS_BT[:1])
    handle = model.add(random_adapter(Recipe(), factors))
    with model.rows([handle]):
        assert not torch.equal(logits(model.model, TOKENS_BT[:1]), base_PTV)
        model.close()
        assert torch.equal(logits(model.model, TOKENS_BT[:1]), base_PTV)


def test_adapters_join_and_leave_without_a_handle_meaning_another(model: TrainableAdapters, factors: Factors) -> None:
    first, second = (model.add(random_adapter(Recipe(), factors, seed)) for seed in (1, 2))
    with model.rows([second]):
        expected_PTV = logits(model.model, TOKENS_BT[:1])
    model.remove(first)
    third = model.add(random_adapter(Recipe(), factors, 3))
    assert len({first, second, third, BASE}) == 4
    with model.rows([third, second]):
        torch.testing.assert_close(logits(model.model, TOKENS_BT[[0, 0]])[1:], expected_PTV)
    with pytest.raises(KeyError), model.rows([first]):
        pass


def test_the_adapter_as_it_is_now_can_be_served(model: TrainableAdapters, factors: Factors) -> None:
    adapter = random_adapter(Recipe(u=2), factors)
    handle = model.add(adapter)
    assert model.adapter(handle, "float32") == adapter
    model.set_vector(handle, torch.full((13, 2), 0.01))
    served = model.adapter(handle, "bfloat16")
    assert torch.equal(served.vector(), torch.full((13, 2), 0.01).bfloat16().float())
    assert (served.recipe, served.factors, served.dtype) == (adapter.recipe, factors.digest, "bfloat16")


def test_a_bfloat16_model_agrees_with_its_bfloat16_merge(tmp_path: Path) -> None:
    path = save_model(tmp_path, dtype=torch.bfloat16)
    factors = build_factors(path, rank=2, progress=False)
    adapter = random_adapter(Recipe(), factors)
    model = TrainableAdapters(load_model(path, torch.bfloat16), factors)
    with model.rows([model.add(adapter)] * 4):
        ours = logits(model.model, TOKENS_BT[:4]).float()
    exact = logits(merged_model(path, adapter, factors), TOKENS_BT[:4])
    base = logits(load_model(path, torch.bfloat16), TOKENS_BT[:4]).float()
    noise = (base - logits(load_model(path), TOKENS_BT[:4])).square().mean()
    assert (ours - exact).square().mean() < 2 * noise < (ours - base).square().mean() / 10


def test_rows_for_another_batch_size_are_refused(model: TrainableAdapters, factors: Factors) -> None:
    handle = model.add(random_adapter(Recipe(), factors))
    with pytest.raises(RuntimeError), model.rows([handle]):
        logits(model.model, TOKENS_BT[:2])


def test_adapters_that_do_not_fit_the_factors_are_refused(model: TrainableAdapters, factors: Factors) -> None:
    with pytest.raises(FactorsError):
        model.add(replace(random_adapter(Recipe(), factors), factors="0f" * 32))
    with pytest.raises(RecipeError):
        model.add(random_adapter(Recipe(groups=MODULES + 1), factors))
    handle = model.add(random_adapter(Recipe(), factors))
    with pytest.raises(VectorError, match=r"\(13, 1\)"):
        model.set_vector(handle, torch.zeros(13))


def test_factors_that_do_not_fit_the_model_are_refused(path: Path, factors: Factors) -> None:
    model = load_model(path)
    model.model.layers[0].self_attn.q_proj = torch.nn.Linear(32, 48)
    with pytest.raises(FactorsError, match=r"q_proj has a weight \(48, 32\)"):
        TrainableAdapters(model, factors)
    with pytest.raises(FactorsError, match="no module"):
        TrainableAdapters(torch.nn.Linear(2, 2), factors)
