"""TinyLoRA models and checkpoints made by PEFT, shared by the import tests."""

import json
from pathlib import Path

import safetensors.torch
import torch
from peft import PeftModel, TinyLoraConfig, get_peft_model
from peft.tuners.tinylora import TinyLoraLayer
from transformers import PreTrainedModel

from adapters.factors.factors import Factors
from tests.adapters.tiny_models import ALL_TARGETS, load_model

State = tuple[dict[str, torch.Tensor], dict[str, object]]


def peft_model(path: Path, dtype: torch.dtype = torch.float32, autocast: bool = True, **options: object) -> PeftModel:
    """PEFT's model with random non-zero vectors, large enough to move the logits."""
    return with_peft(load_model(path, dtype), autocast, **options)


def with_peft(base: PreTrainedModel, autocast: bool = True, **options: object) -> PeftModel:
    """`peft_model` of a model that is loaded."""
    config = TinyLoraConfig(**{"target_modules": ALL_TARGETS, "u": 1, "task_type": "CAUSAL_LM"} | options)
    model = get_peft_model(base, config, autocast_adapter_dtype=autocast).eval()
    torch.manual_seed(7)
    for vector in model.base_model.tinylora_v["default"].values():
        vector.data.normal_(std=0.3 / config.u**0.5)
    return model


def with_our_signs(model: PeftModel, factors: Factors) -> PeftModel:
    """Flip the pairs of A's rows and B's columns to the factors' signs; PEFT then runs with these."""
    for module in factors.modules:
        layer = model.get_submodule(f"base_model.model.{module}")
        if not isinstance(layer, TinyLoraLayer):
            continue
        ours = factors.triplet(module)[0][:, : layer.r["default"]]
        signs = torch.sign((layer.tinylora_B["default"] * ours).sum(dim=0))
        layer.tinylora_B["default"] *= signs
        layer.tinylora_A["default"] *= signs[:, None]
    return model


def saved(model: PeftModel, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def state(directory: Path) -> State:
    tensors = safetensors.torch.load_file(directory / "adapter_model.safetensors")
    return tensors, json.loads((directory / "adapter_config.json").read_text())
