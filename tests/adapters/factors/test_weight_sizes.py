"""The size of weights in memory, against what transformers loads, and of quantised ones against their files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from adapters.factors.weight_sizes import weight_bytes
from adapters.vector.errors import FactorsError
from tests.adapters.tiny_models import save_model


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
def test_weights_take_what_the_loaded_model_takes(tmp_path: Path, stored: torch.dtype, loaded: torch.dtype) -> None:
    path = save_model(tmp_path, dtype=stored)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=loaded)
    assert weight_bytes(path, loaded.itemsize) == sum(weight.nbytes for weight in model.parameters())


def test_quantised_weights_keep_their_size(tmp_path: Path) -> None:
    tensors = {
        "packed": torch.zeros(8, 4, dtype=torch.int32),
        "eight": torch.zeros(8, 16, dtype=torch.float8_e4m3fn),
        "scale": torch.zeros(8, dtype=torch.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert weight_bytes(tmp_path, 2) == 8 * 4 * 4 + 8 * 16 + 8 * 2


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(FactorsError, match=r"lacks model\.safetensors"):
        weight_bytes(tmp_path, 2)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(FactorsError, match=r"model\.safetensors is not a readable safetensors file"):
        weight_bytes(tmp_path, 2)
