"""`tinylora export` of an adapter in a file, for a model in a directory; PEFT and transformers load what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from typer.testing import CliRunner, Result

from adapters.factors.build import build_factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.launch.cli import cli
from server.launch.embedded_model import MODELS_DIR_VARIABLE, embedded_model_dir
from tests.adapters.tiny_models import load_model, logits, save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


@pytest.fixture
def file(model: Path, tmp_path: Path) -> Path:
    """An adapter, whose factors of rank 3 are beside the model."""
    factors = build_factors(model, rank=3, progress=False)
    vector = torch.randn(13, 1, generator=torch.Generator().manual_seed(2)) * 0.3
    adapter = Adapter.from_vector(vector, Recipe(), factors.digest, "float32")
    file = tmp_path / "math.safetensors"
    file.write_bytes(adapter.to_safetensors())
    return file


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_a_lora_and_merged_weights_give_the_same_logits(model: Path, file: Path, tmp_path: Path) -> None:
    lora = run(file, tmp_path / "lora", "--model", model).stdout.strip()
    merged = json.loads(run(file, tmp_path / "merged", "--as", "merged", "--model", model, "--json").stdout)
    assert (merged["as"], merged["directory"], merged["rounding_loss"]) == ("merged", str(tmp_path / "merged"), 0)
    expected = logits(PeftModel.from_pretrained(load_model(model), lora).eval())
    assert (expected - logits(load_model(model))).abs().max() > 0.1
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), expected, rtol=1e-4, atol=2e-5)


def test_what_rounding_loses_is_said(model: Path, file: Path, tmp_path: Path) -> None:
    strong = Adapter.from_safetensors(file.read_bytes())
    weak = Adapter.from_vector(strong.vector() / 1000, strong.recipe, strong.factors, "float32")
    file.write_bytes(weak.to_safetensors())
    arguments = (file, tmp_path / "merged", "--as", "merged", "--model", model)
    assert "Rounding lost" in run(*arguments, "--dtype", "bfloat16").stderr


def test_an_adapter_of_another_model_than_the_embedded_one_asks_for_its_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(tmp_path / "models"))
    embedded_model_dir().parent.mkdir()
    save_model(tmp_path, seed=1).rename(embedded_model_dir())
    said = run(file, tmp_path / "out", code=1).stderr
    assert "made for the factors" in said and "name the adapter's with --model" in said


def test_mistakes_are_sentences(model: Path, file: Path, tmp_path: Path) -> None:
    assert "exists and is not empty" in run(file, model, "--as", "merged", "--model", model, code=1).stderr
    assert "--dtype is for merged weights" in run(file, tmp_path / "o", "--dtype", "float32", code=1).stderr
    other = save_model(tmp_path / "other", seed=1)
    said = run(file, tmp_path / "out", "--model", other, code=1).stderr
    assert "made for the factors" in said and f"copy their file to {other}/tinylora" in said
    file.write_bytes(b"nonsense")
    assert "not a readable safetensors file" in run(file, tmp_path / "out", "--model", model, code=1).stderr
    assert (
        "no answer of a TinyLoRA server" in run("acme/a", tmp_path / "o", "--url", "http://127.0.0.1:9", code=1).stderr
    )
