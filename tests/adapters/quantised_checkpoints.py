"""Quantised checkpoints of a tiny model, written here in the formats of compressed-tensors, and what they stand for.

The weights of all linears but the head are rounded to nearest; nothing else of the model changes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Kind = Literal["int8", "int4"]
GROUP = 16
FORMATS: dict[Kind, dict[str, Any]] = {
    # Weights by rows, activations by token, both as 8-bit integers.
    "int8": {
        "format": "int-quantized",
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    },
    # Weights alone, 16 of a row at a time: as GPTQ and AWQ have them.
    "int4": {
        "format": "pack-quantized",
        "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP},
        "input_activations": None,
    },
}


def quantise(original: Path, kind: Kind, directory: Path) -> tuple[Path, Path]:
    """(quantised checkpoint, an ordinary checkpoint of the weights that it stands for), both in `directory`."""
    quantised, dequantised = (directory / f"{original.name}-{kind}{end}" for end in ("", "-dequantised"))
    for directory in (quantised, dequantised):
        shutil.copytree(original, directory, ignore=shutil.ignore_patterns("tinylora"))
    tensors = load_file(original / "model.safetensors")
    packed, plain = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            del packed[name]
            values, scales = _rounded(weight, kind)
            width = weight.shape[1] // scales.shape[1]
            plain[name] = values * scales.repeat_interleave(width, dim=1)
            packed[f"{name}_scale"] = scales
            if kind == "int8":
                packed[name] = values.to(torch.int8)
            else:
                packed[f"{name}_packed"] = _in_int32(values)
                packed[f"{name}_shape"] = torch.tensor(weight.shape)
    save_file(packed, quantised / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, dequantised / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((original / "config.json").read_text())
    layout = FORMATS[kind]
    group = {"targets": ["Linear"], "weights": layout["weights"], "input_activations": layout["input_activations"]}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": layout["format"],
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
    (quantised / "config.json").write_text(json.dumps(config))
    return quantised, dequantised


def _rounded(weight_OI: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """Integers (out, in), and by what they are multiplied: (out, groups)."""
    bits = FORMATS[kind]["weights"]["num_bits"]
    groups_OGW = weight_OI.reshape(len(weight_OI), -1, weight_OI.shape[1] if kind == "int8" else GROUP)
    scales_OG = groups_OGW.abs().amax(-1) / (2 ** (bits - 1) - 1)
    return (groups_OGW / scales_OG[..., None]).round().reshape(weight_OI.shape), scales_OG


def _in_int32(values_OI: Tensor) -> Tensor:
    """Eight 4-bit integers, moved to 0..15, in each int32; the first in the lowest bits."""
    shifted = (values_OI + 8).to(torch.int64).reshape(len(values_OI), -1, 8)
    joined = (shifted << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).to(torch.int32)
