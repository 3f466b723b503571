"""Importing checkpoints of models that read images, whose text model has another name in transformers than on disk.
Against the updates of PEFT's own layers."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, PreTrainedModel

from adapters.apply.reconstruct import delta_weight
from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.factors.transformers_model import names_there
from adapters.vector.adapter import Adapter
from adapters.vector.errors import CheckpointError
from tests.adapters.peft_checkpoints import saved, with_peft
from tests.adapters.vision_model import VISION, save_vision_family

Base = tuple[Path, Factors, dict[str, str]]


@pytest.fixture(scope="module", params=[*VISION])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_vision_family(tmp_path_factory.mktemp("base") / request.param, request.param)
    factors = build_factors(path, rank=2, progress=False)
    return path, factors, names_there(path, factors.modules)


def load(path: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(path).eval()


def assert_same_updates(adapter: Adapter, model: PeftModel, factors: Factors, names: dict[str, str]) -> None:
    for module, name in names.items():
        theirs = model.get_submodule(f"base_model.model.{name}").get_delta_weight("default")
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(delta_weight(adapter, factors, module), theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("save_projection", [True, False])
def test_tinylora_has_the_updates_of_pefts_own_layers(base: Base, tmp_path: Path, save_projection: bool) -> None:
    path, factors, names = base
    targets = [*names.values()]
    model = with_peft(load(path), target_modules=targets, u=3, weight_tying=0.5, save_projection=save_projection)
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    assert_same_updates(adapter, model, factors, names)


def test_lora_xs_has_the_updates_of_pefts_own_layers(base: Base, tmp_path: Path) -> None:
    path, factors, names = base
    options = {"r": 2, "lora_alpha": 4, "target_modules": [*names.values()]}
    model = get_peft_model(load(path), LoraConfig(**options))
    layers = [model.get_submodule(f"base_model.model.{name}") for name in names.values()]
    torch.manual_seed(3)
    for layer in layers:
        left, values, right = torch.linalg.svd(layer.get_base_layer().weight.data, full_matrices=False)
        layer.lora_A["default"].weight.data = right[:2].contiguous()
        layer.lora_B["default"].weight.data = (left[:, :2] * values[:2]).contiguous()
        layer.default_lora_latent_mapping = torch.nn.Linear(2, 2, bias=False)
        layer.default_lora_latent_mapping.weight.data.normal_(std=0.2)
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    for layer in layers:  # what LoRA-XS computes with
        layer.lora_B["default"].weight.data @= layer.default_lora_latent_mapping.weight.data
    assert_same_updates(adapter, model, factors, names)


def test_layers_of_the_tower_are_refused_beside_those_of_the_text_model_and_alone(base: Base, tmp_path: Path) -> None:
    path, factors, names = base
    whole = load(path)
    tower = [
        name
        for name, part in whole.named_modules()
        if isinstance(part, torch.nn.Linear) and ("layers." in name or "blocks." in name) and name not in names.values()
    ]
    both = saved(with_peft(whole, target_modules=[*names.values(), *tower]), tmp_path / "both")
    with pytest.raises(CheckpointError, match="cannot be served"):
        import_checkpoint(both, factors)
    alone = saved(with_peft(load(path), target_modules=tower), tmp_path / "alone")
    with pytest.raises(CheckpointError, match="cannot be served"):
        import_checkpoint(alone, factors)
