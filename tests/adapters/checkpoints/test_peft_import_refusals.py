"""PEFT TinyLoRA checkpoints that are broken, or do not fit their configuration, and what the refusal says."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.checkpoints.peft_import import import_peft_tinylora
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.errors import CheckpointError
from tests.adapters.peft_checkpoints import State, peft_model, saved, state
from tests.adapters.tiny_models import save_model

Base = tuple[Path, Factors]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("llama"))
    return path, build_factors(path, rank=2, progress=False)


@pytest.fixture(scope="module")
def whole(llama: Base, tmp_path_factory: pytest.TempPathFactory) -> State:
    """An unbroken checkpoint: u = 3, 7 vectors, projections saved."""
    return state(saved(peft_model(llama[0], u=3, weight_tying=0.5), tmp_path_factory.mktemp("whole")))


Q = "base_model.model.model.layers.0.self_attn.q_proj.tinylora_"
V = "base_model.tinylora_v."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({Q + "A": None}, "q_proj.tinylora_A' is missing"),
        ({Q + "B": None}, "q_proj.tinylora_B' is missing"),
        ({Q + "P": None}, "13 of 14 modules have their tinylora_P; missing in .*q_proj"),
        ({V + "2": None}, "tinylora_v.2' is missing"),
        ({V + "6": None}, "has 6 vectors, expected 7"),
        ({V + "0": torch.zeros(4)}, r"has shape \(4,\), expected \(3,\)"),
        ({V + "0": torch.zeros(3, dtype=torch.int64)}, "dtype torch.int64"),
        ({V + "0": torch.tensor([0.0, float("nan"), 0.0])}, "NaN"),
        ({Q + "B": torch.full((32, 2), float("inf"))}, "NaN or infinity"),
        ({Q + "A": torch.zeros(3, 32)}, r"has shape \(3, 32\), expected \(2, 32\)"),
        ({Q + "B": torch.zeros(2, 32)}, r"has shape \(2, 32\), expected \(32, 2\)"),
        ({Q + "P": torch.zeros(3, 3, 3)}, r"expected \(3, 2, 2\)"),
        ({Q + "A": torch.zeros(0, 2**40)}, "has shape"),
        ({"base_model.model.model.layers.9.mlp.up_proj.tinylora_A": torch.zeros(2, 32)}, "cannot be served.*layers.9"),
        ({"base_model.model.lm_head.modules_to_save.weight": torch.zeros(2)}, "cannot be served: .*lm_head"),
        ({V + "99999999999999999999": torch.zeros(3)}, "cannot be served"),
    ],
)
def test_broken_checkpoint_is_refused_with_what_was_wrong(
    llama: Base, whole: State, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    tensors, config = whole
    broken = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(safetensors.torch.save(broken), llama[1], config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 3}, "rank 3, expected 1..2"),
        ({"r": "2"}, "r is '2', expected an integer"),
        ({"u": 10**12}, "u is 1000000000000, expected an integer"),
        ({"u": 5}, r"has shape \(3,\), expected \(5,\)"),
        ({"projection_seed": -1}, "cannot be drawn again: .*projection_seed is -1"),
        ({"weight_tying": float("nan")}, "weight_tying is nan"),
        ({"weight_tying": 0.0}, "has 7 vectors, expected 14"),
        ({"peft_type": "LORA"}, "peft_type is 'LORA'"),
        ({"peft_version": "0.19.1"}, "PEFT 0.19"),
    ],
)
def test_configuration_that_does_not_fit_is_refused(
    llama: Base, whole: State, changes: dict[str, object], message: str
) -> None:
    tensors, config = whole
    without_projection = {name: tensor for name, tensor in tensors.items() if not name.endswith("tinylora_P")}
    assert import_peft_tinylora(without_projection, llama[1], config=config).adapter.recipe.rank == 2
    with pytest.raises(CheckpointError, match=message):
        import_peft_tinylora(without_projection, llama[1], config=config | changes)
