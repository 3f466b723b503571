"""Which kind a checkpoint is: our own files, and what is none that can be served."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.errors import CheckpointError
from adapters.vector.recipe import Recipe
from tests.adapters.tiny_models import save_model

Base = tuple[Path, Factors]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("llama"))
    return path, build_factors(path, rank=2, progress=False)


def test_our_own_file_imports_unchanged_and_only_with_its_factors(base: Base, tmp_path: Path) -> None:
    path, factors = base
    adapter = Adapter.from_vector(torch.arange(13.0)[:, None], Recipe(), factors.digest, "bfloat16")
    assert import_checkpoint(adapter.to_safetensors(), factors).adapter == adapter
    (tmp_path / "adapter_model.safetensors").write_bytes(adapter.to_safetensors())
    assert import_checkpoint(tmp_path, factors).adapter == adapter
    other = build_factors(path, rank=1, out_dir=tmp_path / "factors", progress=False)
    with pytest.raises(CheckpointError, match="was made for factors"):
        import_checkpoint(adapter.to_safetensors(), other)


def test_plain_lora_is_refused_with_what_is_supported(base: Base) -> None:
    data = safetensors.torch.save({"base_model.model.x.lora_A.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="neither PEFT TinyLoRA"):
        import_checkpoint(data, base[1])
