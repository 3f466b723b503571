"""Checkpoints whose channels were scaled before they were rounded: adapters act on them as on the original."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.apply.reconstruct import delta_weight
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.factors.kept_scales import through_scales
from adapters.factors.quantised import served_factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError
from tests.adapters.families import Merged, load_model, save_family
from tests.adapters.quantised_checkpoints import Kind, quantise, scale_channels
from tests.adapters.tiny_models import save_model

IDS = torch.arange(3, 43)[None]
# compressed-tensors whose linears are all left as they are.
UNROUNDED = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "ignore": ["re:.*"]}
NORM = "model.layers.1.input_layernorm.weight"
NORMS = ("input_layernorm", "post_attention_layernorm")
ADDED = {"gemma": 1.0, "gemma2": 1.0, "gemma3": 1.0}


def as_quantised(model: Path) -> Path:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": UNROUNDED}))
    return model


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        answer: Tensor = model(input_ids=IDS).logits
    return answer


def answers_through_scales(model: torch.nn.Module, adapter: Adapter, factors: Factors) -> Tensor:
    """Logits of `model` with what an engine adds, which has the factors as the model sees them."""
    assert factors.scales is not None
    seen = through_scales(factors, factors.scales)
    assert seen == factors and seen.digest == factors.digest
    for module in factors.modules:
        model.get_submodule(module).weight.data += delta_weight(adapter, seen, module)
    return logits(model)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "cohere", "glm4", "mixtral"])
def test_an_adapter_does_to_a_scaled_model_what_it_does_to_the_original(tmp_path: Path, family: str) -> None:
    original = save_family(tmp_path / family, family)
    scaled = scale_channels(original, tmp_path, ADDED.get(family, 0.0))
    merged = Merged(original, build_factors(original, progress=False), 1)
    model = load_model(scaled)
    base = merged.model(None)
    # Another model by its weights, the same by its answers.
    assert not torch.allclose(model.get_parameter(NORM), base.get_parameter(NORM), 0.1)
    torch.testing.assert_close(logits(model), logits(base), rtol=1e-4, atol=2e-4)

    factors = served_factors(as_quantised(scaled), original, progress=False)
    expected, moved = logits(merged.model(0)), logits(merged.model(0)) - logits(base)
    found = answers_through_scales(model, merged.adapters[0], factors)
    print(f"{family}: moved {moved.abs().max():.3f}, off {(found - expected).abs().max():.1e}")
    assert moved.abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=5e-4)


def test_without_the_scales_the_same_adapter_would_do_something_else(tmp_path: Path) -> None:
    original = save_family(tmp_path / "llama", "llama")
    scaled = scale_channels(original, tmp_path)
    factors = build_factors(original, progress=False)
    merged, model = Merged(original, factors, 1), load_model(scaled)
    for module in factors.modules:
        model.get_submodule(module).weight.data += delta_weight(merged.adapters[0], factors, module)
    moved = logits(merged.model(0)) - logits(merged.model(None))
    assert (logits(model) - logits(merged.model(0))).abs().max() > 0.3 * moved.abs().max()


@pytest.mark.parametrize("kind", ["int8", "int4", "awq"])
def test_scales_are_found_in_rounded_weights(tmp_path: Path, kind: Kind) -> None:
    original = save_family(tmp_path / "qwen2", "qwen2")
    scaled = scale_channels(original, tmp_path)
    exact = served_factors(as_quantised(scale_channels(original, tmp_path / "exact")), original, progress=False)
    factors = served_factors(quantise(scaled, kind, tmp_path)[0], original, progress=False)
    assert exact.scales is not None and factors.scales is not None
    known, found = load_file(exact.scales), load_file(factors.scales)
    assert known.keys() == found.keys()
    for name, scale_X in known.items():
        error = (found[name] / scale_X).log().square().mean().sqrt()
        # Norms are not rounded. In weights of 96 to 192 columns 4 bits hide a channel's scale by up to 1 %.
        exactly = name.endswith("_proj.in") and not name.endswith(("o_proj.in", "down_proj.in"))
        assert error < (1e-6 if exactly else 0.015), name


@pytest.mark.parametrize("kind", ["int4", "awq"])
def test_scales_are_found_once_and_then_a_file_of_factors_is_enough(tmp_path: Path, kind: Kind) -> None:
    original = save_model(tmp_path)
    quantised, _ = quantise(scale_channels(original, tmp_path), kind, tmp_path)
    own = build_factors(original, progress=False)
    with pytest.raises(FactorsError, match=r"scales what its linears read.*name the model that it was made from"):
        served_factors(quantised, own.path, progress=False)
    first = served_factors(quantised, original, progress=False)
    assert first == own and first.scales is not None
    written = first.scales.stat().st_mtime_ns
    for source in (original, own.path):
        again = served_factors(quantised, source, progress=False)
        assert (again.scales, again.scales and again.scales.stat().st_mtime_ns) == (first.scales, written)
    first.scales.write_bytes(b"half")
    assert served_factors(quantised, original, progress=False).scales == first.scales
    assert through_scales(own, first.scales).tensors.keys() == own.tensors.keys()


@pytest.mark.parametrize("kind", ["int8", "int4", "awq"])
def test_a_checkpoint_that_was_only_rounded_has_none(tmp_path: Path, kind: Kind) -> None:
    original = save_model(tmp_path, "qwen2")
    quantised, _ = quantise(original, kind, tmp_path)
    own = build_factors(original, progress=False)
    assert served_factors(quantised, own.path, progress=False).scales is None
    assert served_factors(quantised, original, progress=False).scales is None
    assert served_factors(quantised, own.path, progress=False).scales is None


def change(model: Path, **changed: Tensor) -> None:
    """Replace tensors, named with __ for a dot."""
    path = model / "model.safetensors"
    tensors = load_file(path) | {name.replace("__", "."): new.contiguous() for name, new in changed.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_what_is_not_scaled_and_rounded_is_refused(tmp_path: Path) -> None:
    original = save_model(tmp_path)

    def refused(kind: Kind = "int4", **changed: Tensor) -> str:
        other = scale_channels(original, tmp_path / str(len(list(tmp_path.iterdir()))))
        change(other, **changed)
        quantised, _ = quantise(other, kind, other.parent)
        with pytest.raises(FactorsError) as caught:
            served_factors(quantised, original, progress=False)
        return caught.value.message

    tensors = load_file(original / "model.safetensors")
    at = "model.layers.1."
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))[0]
    rotated = tensors[f"{at}mlp.up_proj.weight"] @ rotation
    assert "of model.layers.1.mlp.up_proj is nothing that scales" in refused(
        model__layers__1__mlp__up_proj__weight=rotated
    )
    assert "of model.layers.1.self_attn.o_proj is nothing" in refused(
        model__layers__1__self_attn__o_proj__weight=tensors["model.layers.0.self_attn.o_proj.weight"]
    )
    # Scales that are in a norm and not in the weights behind it, and the other way round.
    twice = torch.linspace(0.5, 2, 32)
    assert "of model.layers.0.mlp.up_proj is nothing" in refused(
        model__layers__0__post_attention_layernorm__weight=twice
    )
    same = {f"model__layers__{n}__{name}__weight": torch.ones(32) for n in range(2) for name in NORMS}
    assert "are scaled by ratios that are" in refused(**same)
    # By less than rounding to few bits changes all of a weight, but not each column.
    norm = load_file(scale_channels(original, tmp_path / "norms") / "model.safetensors")[NORM]
    assert "the norm before model.layers.1.self_attn.v_proj and its columns are scaled" in refused(
        model__layers__1__input_layernorm__weight=norm * torch.linspace(0.75, 1.3, 32)
    )
    assert "differ in model.norm.weight, which no linear reads" in refused(model__norm__weight=twice)


def test_a_kind_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    original = save_model(tmp_path)
    for config, named in (
        ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'awq in the layout gemv'"),
        ({"quant_method": "awq", "bits": 3, "version": "gemm"}, "'awq of 3 bits'"),
    ):
        scaled = scale_channels(original, tmp_path / config["quant_method"] / str(config.get("bits")))
        settings = json.loads((scaled / "config.json").read_text())
        (scaled / "config.json").write_text(json.dumps(settings | {"quantization_config": config}))
        with pytest.raises(FactorsError, match=f"is quantised by {named}, which cannot be read here"):
            served_factors(scaled, original, progress=False)
        # Nothing says that more was done than rounding.
        plain = shutil.copytree(original, scaled.parent / "plain", ignore=shutil.ignore_patterns("tinylora"))
        (plain / "config.json").write_text(json.dumps(settings | {"quantization_config": config}))
        assert served_factors(plain, original, progress=False).scales is None
