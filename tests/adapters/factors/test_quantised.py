"""Factors of the original for a quantised checkpoint: which belong together, and what is said of those that do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from adapters.factors.build import find_or_build_factors
from adapters.factors.factors import Factors
from adapters.factors.quantised import is_quantised, served_factors
from adapters.vector.errors import FactorsError
from tests.adapters.quantised_checkpoints import quantise
from tests.adapters.tiny_models import save_model


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return save_model(tmp_path)


def served(model: Path, original: Path | None) -> Factors:
    return served_factors(model, original, progress=False)


def edit(directory: Path, **changed: Tensor) -> None:
    """Replace tensors, named with __ for a dot."""
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path) | {name.replace("__", "."): new for name, new in changed.items()}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_model_has_the_factors_of_its_original(original: Path, kind: str) -> None:
    quantised, _ = quantise(original, kind, original.parent)  # type: ignore[arg-type]
    assert is_quantised(quantised) and not is_quantised(original)
    factors = find_or_build_factors(original, progress=False)
    # By the same digest, so that adapters of the original are its adapters.
    assert served(quantised, original) == factors
    assert served(quantised, factors.path) == factors
    assert served(original, factors.path) == served(original, None) == factors


def test_without_the_original_it_is_said_what_to_pass(original: Path) -> None:
    quantised, _ = quantise(original, "int8", original.parent)
    with pytest.raises(FactorsError, match=r"quantised weights .*--factors-from ORIGINAL, the model that it was made"):
        served(quantised, None)
    with pytest.raises(FactorsError, match=r"neither a directory nor a model"):
        served(quantised, original / "nowhere")


def test_factors_of_a_model_of_other_shapes_are_refused(original: Path, tmp_path: Path) -> None:
    quantised, _ = quantise(original, "int8", original.parent)
    config = json.loads((quantised / "config.json").read_text())
    factors = find_or_build_factors(original, progress=False)
    (quantised / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(FactorsError, match=r"gate_proj of shape \(64, 32\), .* say \(48, 32\): they are of another"):
        served(quantised, factors.path)
    (quantised / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(FactorsError, match=r"no module model\.layers\.1\.self_attn\.q_proj"):
        served(quantised, factors.path)
    (quantised / "config.json").write_text(json.dumps(config | {"model_type": "none-such"}))
    with pytest.raises(FactorsError, match="not a causal language model that transformers knows"):
        served(quantised, factors.path)


def test_norms_that_no_scales_explain_are_refused(original: Path) -> None:
    quantised, _ = quantise(original, "int4", original.parent)
    # 16 bits of another kind are no difference.
    edit(quantised, model__layers__0__input_layernorm__weight=torch.full((32,), 1.003, dtype=torch.float16))
    served(quantised, original)
    # As AWQ's, of which the columns of the weights behind them know nothing.
    edit(quantised, model__layers__1__input_layernorm__weight=1 / torch.linspace(0.5, 2, 32))
    with pytest.raises(FactorsError, match=r"v_proj are scaled by ratios that are .* apart.*AWQ"):
        served(quantised, original)


def test_a_model_that_is_not_the_original_is_told_as_such(original: Path, tmp_path: Path) -> None:
    quantised, _ = quantise(original, "int4", tmp_path)
    other = shutil.copytree(original, tmp_path / "other")
    edit(other, model__layers__1__input_layernorm__weight=torch.full((32,), 2.0))
    with pytest.raises(FactorsError, match=r"other is not quantised, and other than .* leave --factors-from out"):
        served(other, original)
    edit(quantised, model__layers__9__input_layernorm__weight=torch.ones(32))
    with pytest.raises(FactorsError, match=r"has 6 norms and .* 5: they are not the same model"):
        served(quantised, original)
    with pytest.raises(FactorsError, match=r"no factors from none-such \(--factors-from\): .* neither a directory"):
        served(quantised, Path("none-such"))


def test_a_model_that_cannot_be_read_is_called_nothing(tmp_path: Path) -> None:
    assert not is_quantised(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert not is_quantised(tmp_path)
