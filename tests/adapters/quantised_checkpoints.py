"""Quantised checkpoints of a tiny model, written here in the formats of compressed-tensors and AutoAWQ, and what they
stand for; and a model whose channels were scaled as AWQ does before it rounds.

The weights of all linears but the head are rounded to nearest; nothing else of the model changes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Kind = Literal["int8", "int4", "awq"]
GROUP = 16
FORMATS: dict[str, dict[str, Any]] = {
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
            written, plain[name] = _awq(weight) if kind == "awq" else _compressed(weight, kind)
            packed |= {f"{name.removesuffix('.weight')}.{part}": tensor for part, tensor in written.items()}
    save_file(packed, quantised / "model.safetensors", metadata={"format": "pt"})
    save_file(plain, dequantised / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((original / "config.json").read_text())
    config["quantization_config"] = _config(kind)
    (quantised / "config.json").write_text(json.dumps(config))
    return quantised, dequantised


def _config(kind: Kind) -> dict[str, Any]:
    if kind == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    layout = FORMATS[kind]
    group = {"targets": ["Linear"], "weights": layout["weights"], "input_activations": layout["input_activations"]}
    return {
        "quant_method": "compressed-tensors",
        "format": layout["format"],
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _compressed(weight_OI: Tensor, kind: str) -> tuple[Mapping[str, Tensor], Tensor]:
    bits = FORMATS[kind]["weights"]["num_bits"]
    groups_OGW = weight_OI.reshape(len(weight_OI), -1, weight_OI.shape[1] if kind == "int8" else GROUP)
    scales_OG = groups_OGW.abs().amax(-1) / (2 ** (bits - 1) - 1)
    values_OI = (groups_OGW / scales_OG[..., None]).round().reshape(weight_OI.shape)
    plain_OI = values_OI * scales_OG.repeat_interleave(groups_OGW.shape[-1], dim=1)
    if kind == "int8":
        return {"weight": values_OI.to(torch.int8), "weight_scale": scales_OG}, plain_OI
    shape = torch.tensor(weight_OI.shape)
    packed = _in_int32(values_OI + 8, range(8))
    return {"weight_packed": packed, "weight_shape": shape, "weight_scale": scales_OG}, plain_OI


def _awq(weight_OI: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
    """With zero points, by inputs; the eight outputs of an int32 in the order in which AWQ's kernels unpack them."""
    groups_GWO = weight_OI.T.reshape(-1, GROUP, len(weight_OI))
    low_GO, high_GO = groups_GWO.amin(1), groups_GWO.amax(1)
    scales_GO = ((high_GO - low_GO) / 15).half().float()
    zeros_GO = (-low_GO / scales_GO).round().clamp(0, 15)
    values_GWO = (groups_GWO / scales_GO[:, None] + zeros_GO[:, None]).round().clamp(0, 15)
    plain_OI = ((values_GWO - zeros_GO[:, None]) * scales_GO[:, None]).reshape(-1, len(weight_OI)).T
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    written = {
        "qweight": _in_int32(values_GWO.reshape(-1, len(weight_OI)), order),
        "qzeros": _in_int32(zeros_GO, order),
        "scales": scales_GO.half(),
    }
    return written, plain_OI.contiguous()


def _in_int32(values_XY: Tensor, order: Any) -> Tensor:
    """Eight integers of 0..15 of a row in each int32: in the lowest bits the first of `order`."""
    values_XP8 = values_XY.to(torch.int64).reshape(len(values_XY), -1, 8)[..., list(order)]
    joined = (values_XP8 << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(joined >= 2**31, joined - 2**32, joined).to(torch.int32)


def scale_channels(original: Path, directory: Path, added_to_norms: float = 0.0) -> Path:
    """The same function with other weights, in `directory`: what each linear reads is divided by random scales from 1/2
    to 2 where it is made (in a norm, in v_proj before o_proj, in up_proj before down_proj), and its columns are
    multiplied by them. added_to_norms: what norms of this family add to their weights."""
    scaled = directory / f"{original.name}-scaled"
    shutil.copytree(original, scaled, ignore=shutil.ignore_patterns("tinylora"))
    tensors = load_file(original / "model.safetensors")
    config = json.loads((original / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    generator = torch.Generator().manual_seed(11)

    def drawn(count: int) -> Tensor:
        return 2 ** (2 * torch.rand(count, generator=generator) - 1)

    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        mine = {name.removeprefix(at): name for name in tensors if name.startswith(at)}
        before_mlp = next(
            name
            for name in ("pre_feedforward_layernorm", "post_attention_layernorm", "input_layernorm")
            if f"{name}.weight" in mine
        )
        attention, mlp = (
            ("q_proj", "k_proj", "v_proj", "qkv_proj"),
            ("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "gate"),
        )
        readers: dict[str, tuple[str, ...]] = {"input_layernorm": attention}
        readers[before_mlp] = (*readers.get(before_mlp, ()), *mlp)
        for norm, linears in readers.items():
            weight = tensors[mine[f"{norm}.weight"]]
            scales = drawn(len(weight))
            tensors[mine[f"{norm}.weight"]] = (weight + added_to_norms) / scales - added_to_norms
            for name in mine.values():
                if name.split(".")[-2] in linears and name.endswith(".weight"):
                    tensors[name] = tensors[name] * scales
        for consumer, producers in {"self_attn.o_proj": attention[2:], "mlp.down_proj": mlp[1:3]}.items():
            if f"{consumer}.weight" not in mine:
                continue
            weight = tensors[mine[f"{consumer}.weight"]]
            repeats = heads // kv_heads if consumer == "self_attn.o_proj" else 1
            width = weight.shape[1] // heads if repeats > 1 else 1
            scales = drawn(weight.shape[1] // repeats)
            spread = scales.view(-1, 1, width).expand(-1, repeats, -1).reshape(-1)
            tensors[mine[f"{consumer}.weight"]] = weight * spread
            parent = consumer.split(".")[0]
            for end in ("weight", "bias"):
                for name in (f"{parent}.{producer}.{end}" for producer in producers):
                    if name in mine:
                        made = tensors[mine[name]].clone()
                        made[-len(scales) :] /= scales[:, None] if end == "weight" else scales
                        tensors[mine[name]] = made
    save_file(tensors, scaled / "model.safetensors", metadata={"format": "pt"})
    return scaled
