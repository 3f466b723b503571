"""The exported plain LoRA, loaded by PEFT and by vLLM's own loader."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from adapters.apply.reconstruct import delta_weight
from adapters.checkpoints.lora_export import export_lora
from adapters.factors.build import build_factors
from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.factors.transformers_model import names_there
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError
from adapters.vector.recipe import Recipe
from tests.adapters.tiny_models import ALL_TARGETS, load_model, logits, merged_logits, save_model
from tests.adapters.vision_model import VISION, save_vision_family

Base = tuple[Path, Factors]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("base"), request.param)
    return path, build_factors(path, rank=3, progress=False)


def random_adapter(factors: Factors, recipe: Recipe, std: float = 0.3) -> Adapter:
    vector = torch.randn(recipe.groups, recipe.u, generator=torch.Generator().manual_seed(2)) * std
    return Adapter.from_vector(vector, recipe, factors.digest, "float32")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(rank=3, u=5, groups=7, tying="structured", convention="sqrt"),
        Recipe(rank=1, u=1, groups=14, projection="elementary"),
    ],
    ids=["paper", "sqrt", "free matrices"],
)
def test_peft_loads_the_export_and_gives_the_same_logits(base: Base, tmp_path: Path, recipe: Recipe) -> None:
    path, factors = base
    adapter = random_adapter(factors, recipe)
    directory = export_lora(adapter, factors, tmp_path / "new" / "lora", str(path))
    model = PeftModel.from_pretrained(load_model(path), directory).eval()
    expected = merged_logits(path, adapter, factors)
    assert (expected - logits(load_model(path))).abs().max() > 0.1
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", [*VISION])
def test_peft_loads_the_export_for_models_that_read_images_too(family: str, tmp_path: Path) -> None:
    path = save_vision_family(tmp_path / family, family)
    factors = build_factors(path, progress=False)
    adapter = random_adapter(factors, default_recipe(factors), std=0.5)
    names = names_there(path, factors.modules)
    directory = export_lora(adapter, factors, tmp_path / "lora", str(path), names)
    base, merged = (AutoModelForImageTextToText.from_pretrained(path).eval() for _ in range(2))
    before = logits(base)
    model = PeftModel.from_pretrained(base, directory).eval()
    for module, name in names.items():
        merged.get_submodule(name).weight.data += delta_weight(adapter, factors, module)
    assert (logits(merged) - before).abs().max() > 0.1
    torch.testing.assert_close(logits(model), logits(merged), rtol=1e-4, atol=2e-5)
    adapted = {name.rpartition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted == {f"base_model.model.{name}" for name in names.values()}, "and nothing of the tower"


def test_configuration_names_the_base_model_the_rank_and_every_target(base: Base, tmp_path: Path) -> None:
    _, factors = base
    directory = export_lora(random_adapter(factors, Recipe()), factors, tmp_path, "acme/base")
    config = json.loads((directory / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("acme/base", 2, 2)
    assert config["target_modules"] == sorted(ALL_TARGETS)


def test_vllms_own_loader_reads_the_export(base: Base, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    path, factors = base
    adapter = random_adapter(factors, Recipe())
    directory = str(export_lora(adapter, factors, tmp_path, str(path)))
    helper = PEFTHelper.from_local_dir(directory, max_position_embeddings=64)
    helper.validate_legal(LoRAConfig(max_lora_rank=8))
    loaded = LoRAModel.from_local_checkpoint(directory, set(ALL_TARGETS), helper, lora_model_id=1, device="cpu")
    assert set(loaded.loras) == set(factors.modules)
    for module, lora in loaded.loras.items():
        update = lora.lora_b.float() @ lora.lora_a.float() * lora.scaling
        torch.testing.assert_close(update, delta_weight(adapter, factors, module), rtol=1e-5, atol=1e-6)


def test_adapter_of_other_factors_is_refused(base: Base, tmp_path: Path) -> None:
    _, factors = base
    adapter = Adapter.from_vector(torch.ones(13, 1), Recipe(), "0" * 64, "float32")
    with pytest.raises(FactorsError):
        export_lora(adapter, factors, tmp_path, "acme/base")
