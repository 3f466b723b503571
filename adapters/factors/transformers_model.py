"""What transformers makes of a checkpoint: of which class the model is, and what its modules are called there.

Most are called as in the checkpoint. A model that reads images has its text model under another name there
(`language_model.model.layers.0` is `model.language_model.layers.0`), or under one more (`model.layers.0`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from adapters.vector.errors import AdapterError

_LAYERS = "layers."


def auto_class(config: Any) -> Any:
    """Which of transformers' classes has the language model of `config`, a PreTrainedConfig.

    AdapterError when none has.
    """
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or AutoModelForCausalLM.__name__ in own_code:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise AdapterError(
        f"transformers has no model with a language model's head for {type(config).__name__}. Training with "
        "gradients, and factors of quantised models, need it; jobs of method evolution do not"
    )


def names_there(directory: Path, modules: Sequence[str]) -> dict[str, str]:
    """Names in transformers of all `modules` of the checkpoint in `directory`; empty when they are the checkpoint's.

    Those of a model of texts alone always are.
    """
    kind = json.loads((directory / "config.json").read_bytes()).get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return {}
    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        names = names_in(auto_class(config).from_config(config), modules)
    return names if any(name != module for module, name in names.items()) else {}


def names_in(model: nn.Module, modules: Sequence[str]) -> dict[str, str]:
    """Names in `model` of all `modules` of a checkpoint; as they are where no stack of layers, or more than one, has
    all of them."""
    as_they_are = {module: module for module in modules}
    known = {name for name, _ in model.named_modules()}
    if known.issuperset(modules):
        return as_they_are
    within = [module[module.find(_LAYERS) :] for module in modules]
    stacks = {name[: name.find(_LAYERS)] for name in known if _LAYERS in name}
    found = [stack for stack in stacks if known.issuperset(f"{stack}{one}" for one in within)]
    return dict(zip(modules, (f"{found[0]}{one}" for one in within), strict=True)) if len(found) == 1 else as_they_are
