"""Weights of quantised checkpoints against the numbers that were written, and against vLLM's own packing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.factors.dequantised import DequantisedWeights
from adapters.vector.errors import FactorsError
from tests.adapters.quantised_checkpoints import Kind, quantise
from tests.adapters.tiny_models import save_model


def opened(directory: Path) -> DequantisedWeights:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    return DequantisedWeights.of(directory, model)


@pytest.mark.parametrize("kind", ["int8", "int4", "awq"])
def test_weights_are_what_was_written(tmp_path: Path, kind: Kind) -> None:
    quantised, dequantised = quantise(save_model(tmp_path), kind, tmp_path)
    weights, plain = opened(quantised), load_file(dequantised / "model.safetensors")
    for name in plain:
        if name.endswith("_proj.weight"):
            torch.testing.assert_close(weights.read(name.removesuffix(".weight")), plain[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.read("lm_head"), plain["lm_head.weight"])
    with pytest.raises(FactorsError, match=r"the weight of model\.none cannot be read from \[\]"):
        weights.read("model.none")


# What rounding leaves of random numbers, relative: by the bits and by how many share a scale.
PRESETS = {
    "FP8": 0.03, "FP8_DYNAMIC": 0.03, "FP8_BLOCK": 0.03, "W8A8": 0.01, "W8A16": 0.01, "W4A16": 0.12, "W4A16_ASYM": 0.11,
    "NVFP4": 0.11, "NVFP4A16": 0.11, "MXFP4": 0.13,
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_library_compresses_is_read_back(tmp_path: Path, preset: str) -> None:
    scheme = preset_name_to_scheme(preset, ["Linear"])
    weight_OI = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    layout = infer_module_format(torch.nn.Linear, scheme).value
    tensors = {"weight": weight_OI, **rounding(weight_OI, scheme.weights)}
    compressed = BaseCompressor.get_value_from_registry(layout).compress(tensors, scheme)
    named = {f"up_proj.{name}": tensor.contiguous() for name, tensor in compressed.items()}
    save_file(named, tmp_path / "model.safetensors")
    config = QuantizationConfig(config_groups={"group_0": scheme}, format=layout, ignore=["lm_head"])
    (tmp_path / "config.json").write_text(f'{{"quantization_config": {config.model_dump_json()}}}')
    model = torch.nn.Module()
    model.up_proj = torch.nn.Linear(256, 256, device="meta")
    read_OI = DequantisedWeights.of(tmp_path, model).read("up_proj")
    error = float((read_OI - weight_OI).norm() / weight_OI.norm())
    assert 0.2 * PRESETS[preset] < error < PRESETS[preset]


def rounding(weight_OI: torch.Tensor, how: Any) -> dict[str, torch.Tensor]:
    """By what, and from where, the library is to round."""
    shape, dims = {
        "tensor": ((1, 256, 256), (1, 2)),
        "channel": ((256, 1, 256), 2),
        "group": ((256, -1, how.group_size or 256), 2),
        "tensor_group": ((256, -1, how.group_size or 256), 2),
        "block": ((2, 128, 2, 128), (1, 3)),
    }[str(getattr(how.strategy, "value", how.strategy))]
    parts = weight_OI.view(shape)
    whole = generate_gparam(weight_OI.min(), weight_OI.max()) if "tensor_group" in str(how.strategy) else None
    scales, zeros = calculate_qparams(parts.amin(dims), parts.amax(dims), how, global_scale=whole)
    found = {"weight_scale": scales} | ({} if how.symmetric else {"weight_zero_point": zeros})
    return found if whole is None else found | {"weight_global_scale": whole}


def test_awq_is_packed_as_vllm_packs_it(tmp_path: Path) -> None:
    from vllm.model_executor.layers.quantization.utils.quant_utils import awq_pack

    inputs, outputs, groups = 32, 48, 2
    generator = torch.Generator().manual_seed(1)
    values_IO = torch.randint(0, 16, (inputs, outputs), generator=generator)
    zeros_GO = torch.randint(0, 16, (groups, outputs), generator=generator)
    scales_GO = torch.rand(groups, outputs, generator=generator).half()
    tensors = {
        "a.up_proj.qweight": awq_pack(values_IO.to(torch.int32), 4, inputs, outputs),
        "a.up_proj.qzeros": awq_pack(zeros_GO.to(torch.int32), 4, groups, outputs),
        "a.up_proj.scales": scales_GO,
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    width = inputs // groups
    zeros_IO, scales_IO = (part.repeat_interleave(width, dim=0).float() for part in (zeros_GO, scales_GO))
    expected_OI = ((values_IO.float() - zeros_IO) * scales_IO).T
    assert torch.equal(DequantisedWeights.of(tmp_path, torch.nn.Module()).read("a.up_proj"), expected_OI)
