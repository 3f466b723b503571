"""Importing PEFT TinyLoRA checkpoints, against PEFT's own forward pass on the same weights."""

from pathlib import Path

import pytest
import torch

from adapters.apply.reconstruct import delta_weight, matrices
from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.checkpoints.peft_import import import_peft_tinylora
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.errors import CheckpointError
from adapters.vector.recipe import Recipe
from tests.adapters.peft_checkpoints import peft_model, saved, state, with_our_signs
from tests.adapters.tiny_models import load_model, logits, merged_logits, save_model

MODULES = 14
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}
Base = tuple[Path, Factors]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("base"), request.param)
    return path, build_factors(path, rank=2, progress=False)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("llama"))
    return path, build_factors(path, rank=2, progress=False)


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("phi3"), "phi3")
    return path, build_factors(path, rank=2, progress=False)


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("opt"), "opt")
    return path, build_factors(path, rank=2, progress=False)


@pytest.mark.parametrize(
    ("u", "tying", "save_projection"),
    [(1, 0.0, True), (1, 1 - 4 / MODULES, False), (13, 1.0, False), (13, 0.5, True), (64, 1 - 3 / MODULES, False)],
)
def test_imported_adapter_gives_the_logits_of_pefts_own_forward(
    base: Base, tmp_path: Path, u: int, tying: float, save_projection: bool
) -> None:
    path, factors = base
    options = {"u": u, "weight_tying": tying, "save_projection": save_projection}
    model = peft_model(path, projection_seed=5, tinylora_dropout=0.1, **options)
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    expected = logits(model)
    assert (expected - logits(load_model(path))).abs().max() > 0.1
    torch.testing.assert_close(merged_logits(path, adapter, factors), expected, **FLOAT32)


@pytest.mark.parametrize("layers", [None, [1]])
@pytest.mark.parametrize("tying", [0.0, 0.5, 0.6875])
@pytest.mark.parametrize("save_projection", [True, False])
def test_modules_are_numbered_as_phi_defines_them_with_o_proj_before_qkv_proj(
    phi3: Base, tmp_path: Path, save_projection: bool, tying: float, layers: list[int] | None
) -> None:
    path, factors = phi3
    targets = {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], "layers_to_transform": layers}
    model = peft_model(path, u=2, weight_tying=tying, save_projection=save_projection, **targets)
    adapter = import_checkpoint(saved(with_our_signs(model, factors), tmp_path), factors).adapter
    assert adapter.recipe.projection == "elementary", "PEFT's own vector would be spread in the factors' order"
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj"], ["q_proj", "v_proj"]])
@pytest.mark.parametrize("save_projection", [True, False])
def test_modules_are_numbered_as_opt_defines_them_with_q_proj_last(
    opt: Base, tmp_path: Path, save_projection: bool, targets: list[str]
) -> None:
    path, factors = opt
    model = peft_model(path, u=2, weight_tying=0.0, save_projection=save_projection, target_modules=targets)
    adapter = import_checkpoint(saved(with_our_signs(model, factors), tmp_path), factors).adapter
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


@pytest.mark.parametrize("save_projection", [True, False])
def test_modules_the_checkpoint_does_not_adapt_get_a_zero_matrix(
    llama: Base, tmp_path: Path, save_projection: bool
) -> None:
    path, factors = llama
    targets = {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}
    model = peft_model(path, u=3, weight_tying=0.5, save_projection=save_projection, **targets)
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    adapted = {
        module for module, matrix in zip(factors.modules, matrices(adapter, factors), strict=True) if matrix.any()
    }
    assert adapted == {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"}
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


@pytest.mark.parametrize("autocast", [True, False])
def test_checkpoint_of_a_bfloat16_base_imports_within_bfloat16_rounding(tmp_path: Path, autocast: bool) -> None:
    path = save_model(tmp_path, dtype=torch.bfloat16)
    factors = build_factors(path, rank=2, progress=False)
    model = peft_model(path, torch.bfloat16, autocast, u=3, weight_tying=0.5)
    adapter = import_checkpoint(saved(model, tmp_path / "adapter"), factors).adapter
    for module in factors.modules:
        expected = model.get_submodule(f"base_model.model.{module}").get_delta_weight("default").float()
        assert (delta_weight(adapter, factors, module) - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("rank", "save_projection"), [(1, True), (2, False), (2, True)])
def test_vector_is_kept_as_it_is_when_the_signs_agree(
    llama: Base, tmp_path: Path, rank: int, save_projection: bool
) -> None:
    path, factors = llama
    model = with_our_signs(peft_model(path, r=rank, u=2, weight_tying=0.5, save_projection=save_projection), factors)
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    assert adapter.recipe == Recipe(rank=rank, u=2, groups=7, seed=42, projection="peft", convention="sqrt")
    vectors = model.base_model.tinylora_v["default"]
    assert torch.equal(adapter.vector(), torch.stack([vectors[str(group)].data for group in range(7)]))
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


def test_bfloat16_vector_is_kept_in_bfloat16(llama: Base, tmp_path: Path) -> None:
    path, factors = llama
    tensors, config = state(saved(with_our_signs(peft_model(path, weight_tying=0.5), factors), tmp_path))
    rounded = {name: tensor.bfloat16() if ".tinylora_v." in name else tensor for name, tensor in tensors.items()}
    adapter = import_peft_tinylora(rounded, factors, config=config).adapter
    assert (adapter.dtype, len(adapter.data)) == ("bfloat16", 2 * 7)


def test_rotated_singular_vectors_import_as_a_matrix_per_module(llama: Base, tmp_path: Path) -> None:
    path, factors = llama
    model = peft_model(path, u=2, weight_tying=0.5)
    generator = torch.Generator().manual_seed(1)
    for module in factors.modules:
        layer = model.get_submodule(f"base_model.model.{module}")
        rotation = torch.linalg.qr(torch.randn(2, 2, generator=generator)).Q
        layer.tinylora_A["default"] = (rotation @ layer.tinylora_A["default"]).contiguous()
        layer.tinylora_B["default"] = layer.tinylora_B["default"].flip(1).contiguous()
    adapter = import_checkpoint(saved(model, tmp_path), factors).adapter
    assert adapter.recipe == Recipe(rank=2, u=4, groups=MODULES, projection="elementary", convention="paper")
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


def test_checkpoint_of_lower_rank_than_the_factors_keeps_its_own_rank(llama: Base, tmp_path: Path) -> None:
    path, _ = llama
    factors = build_factors(path, rank=5, out_dir=tmp_path / "factors", progress=False)
    model = peft_model(path, u=3)
    adapter = import_checkpoint(saved(model, tmp_path / "adapter"), factors).adapter
    assert adapter.recipe.rank == 2
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)


@pytest.mark.parametrize("trained", [True, False])
def test_checkpoint_of_other_base_weights_is_refused(llama: Base, tmp_path: Path, trained: bool) -> None:
    _, factors = llama
    model = peft_model(save_model(tmp_path, seed=1))
    if not trained:
        for vector in model.base_model.tinylora_v["default"].values():
            vector.data.zero_()
    with pytest.raises(CheckpointError, match="other base weights"):
        import_checkpoint(saved(model, tmp_path / "adapter"), factors)


def test_bytes_and_their_configuration_import_like_the_directory(llama: Base, tmp_path: Path) -> None:
    path, factors = llama
    directory = saved(peft_model(path, u=3, save_projection=False), tmp_path)
    data, (_, config) = (directory / "adapter_model.safetensors").read_bytes(), state(directory)
    expected = import_checkpoint(directory, factors)
    assert import_checkpoint(data, factors, config) == expected
    assert import_checkpoint(directory / "adapter_model.safetensors", factors) == expected
    with pytest.raises(CheckpointError, match="projection_seed is needed"):
        import_checkpoint(data, factors)


def test_saved_projections_need_no_configuration(llama: Base, tmp_path: Path) -> None:
    path, factors = llama
    model = peft_model(path, u=3, weight_tying=0.5)
    data = (saved(model, tmp_path) / "adapter_model.safetensors").read_bytes()
    torch.testing.assert_close(
        merged_logits(path, import_checkpoint(data, factors).adapter, factors), logits(model), **FLOAT32
    )


def test_recipe_too_large_to_draw_imports_when_its_projections_are_saved(llama: Base, tmp_path: Path) -> None:
    path, factors = llama
    model = with_our_signs(peft_model(path, u=5000, weight_tying=1.0, projection_seed=-3), factors)
    adapter = import_checkpoint(saved(model, tmp_path / "saved"), factors).adapter
    assert adapter.recipe.projection == "elementary"
    torch.testing.assert_close(merged_logits(path, adapter, factors), logits(model), **FLOAT32)
    drawn = saved(peft_model(path, u=5000, weight_tying=1.0, save_projection=False), tmp_path / "drawn")
    with pytest.raises(CheckpointError, match="cannot be drawn again: u must be"):
        import_checkpoint(drawn, factors)
