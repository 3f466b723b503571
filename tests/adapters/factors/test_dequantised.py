"""Weights of quantised checkpoints against the numbers that were written, and against vLLM's own packing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
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
