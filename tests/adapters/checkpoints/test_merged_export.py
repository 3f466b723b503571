"""The merged model, loaded by transformers and compared with PEFT's own merge of the exported LoRA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig

from adapters.checkpoints.lora_export import export_lora
from adapters.checkpoints.merged_export import export_merged
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError
from adapters.vector.recipe import Recipe
from tests.adapters.tiny_models import load_model, logits, save_model


def random_adapter(factors: Factors, std: float = 0.3) -> Adapter:
    vector = torch.randn(13, 1, generator=torch.Generator().manual_seed(2)) * std
    return Adapter.from_vector(vector, Recipe(), factors.digest, "float32")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_are_those_of_pefts_merge(family: str, tmp_path: Path) -> None:
    path = save_model(tmp_path, family)
    factors = build_factors(path, progress=False)
    adapter = random_adapter(factors)
    merged = export_merged(adapter, factors, path, tmp_path / "out/merged", progress=False)
    lora = export_lora(adapter, factors, tmp_path / "lora", str(path))
    expected = logits(PeftModel.from_pretrained(load_model(path), lora).merge_and_unload())
    assert (expected - logits(load_model(path))).abs().max() > 0.1
    torch.testing.assert_close(logits(load_model(merged.directory)), expected, rtol=1e-4, atol=2e-5)
    assert merged.loss < 1e-5
    assert not (merged.directory / "tinylora").exists(), "factors of other weights"


def test_files_of_a_model_in_several_and_what_is_beside_them(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    load_model(path).save_pretrained(tmp_path / "several", max_shard_size="20KB")
    (tmp_path / "several/tokenizer.json").write_text("{}")
    (tmp_path / "several/pytorch_model.bin").write_bytes(b"old")
    factors = build_factors(tmp_path / "several", progress=False)
    merged = export_merged(random_adapter(factors), factors, tmp_path / "several", tmp_path / "merged", progress=False)
    names = {file.name for file in merged.directory.iterdir()}
    assert names == {file.name for file in (tmp_path / "several").iterdir() if file.is_file()} - {"pytorch_model.bin"}
    assert (logits(load_model(merged.directory)) - logits(load_model(path))).abs().max() > 0.1


def test_what_sixteen_bits_lose_is_told_and_float32_keeps_it(tmp_path: Path) -> None:
    path = save_model(tmp_path, dtype=torch.bfloat16)
    factors = build_factors(path, progress=False)
    adapter = random_adapter(factors, std=1e-3)
    rounded = export_merged(adapter, factors, path, tmp_path / "rounded", progress=False)
    whole = export_merged(adapter, factors, path, tmp_path / "whole", "float32", progress=False)
    assert rounded.loss > 0.1 and whole.loss < 1e-3
    assert AutoConfig.from_pretrained(whole.directory).dtype == torch.float32
    assert json.loads((rounded.directory / "config.json").read_text()) == json.loads((path / "config.json").read_text())


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    path = save_model(tmp_path)
    factors = build_factors(path, progress=False)
    other = Adapter.from_vector(torch.ones(13, 1), Recipe(), "0" * 64, "float32")
    with pytest.raises(FactorsError):
        export_merged(other, factors, path, tmp_path / "out", progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("kept")
    with pytest.raises(FileExistsError, match="not empty"):
        export_merged(random_adapter(factors), factors, path, tmp_path / "full", progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["full", path.name])
