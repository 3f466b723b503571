"""Importing LoRA-XS checkpoints, against PEFT's LoRA forward with the trained matrix multiplied into B."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.apply.reconstruct import delta_weight, matrices
from adapters.checkpoints.checkpoint_import import import_checkpoint
from adapters.checkpoints.factor_fit import MAX_LOSS
from adapters.checkpoints.lora_xs_import import import_lora_xs
from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from adapters.vector.errors import CheckpointError
from tests.adapters.tiny_models import ALL_TARGETS, SHAPE, load_model, logits, merged_logits, save_model

RANK = 4
FLOAT32 = {"rtol": 1e-4, "atol": 2e-5}
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
Base = tuple[Path, Factors]
Whole = tuple[dict[str, Tensor], dict[str, object]]


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    path = save_model(tmp_path_factory.mktemp("base"), request.param)
    return path, build_factors(path, rank=RANK, progress=False)


@pytest.fixture(scope="module")
def whole(base: Base) -> Whole:
    """The tensors and the configuration of an unbroken checkpoint."""
    model = lora_xs(base[0])
    return state(model), config_of(model)


def lora_xs(path: Path, rank: int = RANK, **options: object) -> PeftModel:
    """PEFT's LoRA with A = (U S)^T, B = V^T of the transposed weight's SVD, a random R in the layer, not applied."""
    defaults = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ALL_TARGETS, "task_type": "CAUSAL_LM"}
    config = LoraConfig(**defaults | options)
    model = get_peft_model(load_model(path), config).eval()
    torch.manual_seed(3)
    for layer in lora_layers(model):
        left, values, right = torch.linalg.svd(layer.get_base_layer().weight.data.T, full_matrices=False)
        layer.lora_A["default"].weight.data = (left[:, :rank] * values[:rank]).T.contiguous()
        layer.lora_B["default"].weight.data = right[:rank].T.contiguous()
        layer.default_lora_latent_mapping = torch.nn.Linear(rank, rank, bias=False)
        layer.default_lora_latent_mapping.weight.data.normal_(std=0.2)
    return model


def lora_layers(model: PeftModel) -> list[torch.nn.Module]:
    return [layer for layer in model.modules() if hasattr(layer, "lora_A") and hasattr(layer, "scaling")]


def applied_logits(model: PeftModel) -> Tensor:
    """PEFT's forward once B has become B R, which is LoRA-XS's forward with PEFT's own scaling."""
    for layer in lora_layers(model):
        layer.lora_B["default"].weight.data @= layer.default_lora_latent_mapping.weight.data
    return logits(model)


def state(model: PeftModel, naming: str = "current") -> dict[str, Tensor]:
    """Tensors named by this PEFT release, by PEFT 0.10 (which the original code pins), or as in a raw state dict."""
    if naming == "raw":
        return {name: tensor.clone() for name, tensor in model.state_dict().items() if "lora_" in name}
    tensors = get_peft_model_state_dict(model)
    if naming == "original":
        return {name.replace(".default", ""): tensor.clone() for name, tensor in tensors.items()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def config_of(model: PeftModel) -> dict[str, object]:
    return model.peft_config["default"].to_dict() | {"peft_type": "LORA"}


@pytest.mark.parametrize("naming", ["original", "current", "raw"])
def test_imported_adapter_gives_the_logits_of_the_original_forward(base: Base, naming: str) -> None:
    path, factors = base
    model = lora_xs(path)
    tensors = state(model, naming)
    assert (f"{PREFIX}_lora_latent_mapping.weight" in tensors) == (naming == "original")
    adapter = import_lora_xs(tensors, factors, config=config_of(model)).adapter
    assert (adapter.recipe.projection, adapter.recipe.num_parameters) == ("elementary", 14 * RANK**2)
    expected = applied_logits(model)
    assert (expected - logits(load_model(path))).abs().max() > 0.1
    torch.testing.assert_close(merged_logits(path, adapter, factors), expected, **FLOAT32)


@pytest.mark.parametrize("options", [{"lora_alpha": 1}, {"lora_alpha": 3, "use_rslora": True}, {"rank": 2}])
def test_scaling_and_lower_ranks_are_honoured(base: Base, options: dict[str, object]) -> None:
    path, factors = base
    model = lora_xs(path, **options)
    adapter = import_lora_xs(state(model), factors, config=config_of(model)).adapter
    assert adapter.recipe.rank == options.get("rank", RANK)
    torch.testing.assert_close(merged_logits(path, adapter, factors), applied_logits(model), **FLOAT32)


def test_modules_the_checkpoint_does_not_adapt_get_a_zero_matrix(base: Base) -> None:
    path, factors = base
    model = lora_xs(path, target_modules=["v_proj", "up_proj"])
    adapter = import_lora_xs(state(model), factors, config=config_of(model)).adapter
    adapted = [
        module for module, matrix in zip(factors.modules, matrices(adapter, factors), strict=True) if matrix.any()
    ]
    assert [module.rpartition(".")[2] for module in adapted] == ["v_proj", "up_proj"] * 2
    torch.testing.assert_close(merged_logits(path, adapter, factors), applied_logits(model), **FLOAT32)


def test_saved_directory_and_its_bytes_are_recognised(base: Base, tmp_path: Path) -> None:
    path, factors = base
    model = lora_xs(path)
    model.save_pretrained(tmp_path)
    adapter = import_checkpoint(tmp_path, factors).adapter
    assert adapter == import_lora_xs(state(model), factors, config=config_of(model)).adapter
    data = (tmp_path / "adapter_model.safetensors").read_bytes()
    assert import_checkpoint(data, factors, config_of(model)).adapter == adapter
    with pytest.raises(CheckpointError, match="LoRA-XS needs adapter_config"):
        import_checkpoint(data, factors)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose singular values fall slowly, as in trained models: a randomised SVD does not find the last ones."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE | {"hidden_size": 128, "intermediate_size": 160}))
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            left, _, right = torch.linalg.svd(weight.data, full_matrices=False)
            weight.data = left * (1 + torch.arange(left.shape[1])) ** -0.075 @ right
    path = tmp_path_factory.mktemp("slow")
    model.save_pretrained(path)
    return path


def randomised(path: Path) -> PeftModel:
    """As `lora_xs`, with A and B from the algorithm of sklearn's TruncatedSVD(n_iter=10), which torch has as well."""
    model = lora_xs(path)
    for layer in lora_layers(model):
        weight = layer.get_base_layer().weight.data
        _, _, components = torch.svd_lowrank(weight.T, q=RANK + 10, niter=10)
        layer.lora_B["default"].weight.data = components[:, :RANK].contiguous()
        layer.lora_A["default"].weight.data = (weight.T @ components[:, :RANK]).T.contiguous()
    return model


def test_randomised_svd_is_carried_nearly_with_factors_of_a_higher_rank(slow: Path, tmp_path: Path) -> None:
    model = randomised(slow)
    low = build_factors(slow, rank=RANK, out_dir=tmp_path, progress=False)
    with pytest.raises(CheckpointError, match=f"approximate SVD.* outside the leading {RANK} .*, 18 for a start"):
        import_lora_xs(state(model), low, config=config_of(model))
    high = build_factors(slow, rank=18, out_dir=tmp_path, progress=False)
    imported = import_lora_xs(state(model), high, config=config_of(model))
    lost = whole = 0.0
    for layer, module in zip(lora_layers(model), high.modules, strict=True):
        parts = (layer.lora_B["default"], layer.default_lora_latent_mapping, layer.lora_A["default"])
        b, r, a = (part.weight.data for part in parts)
        update = layer.scaling["default"] * b @ r @ a
        lost += float((update - delta_weight(imported.adapter, high, module)).square().sum())
        whole += float(update.square().sum())
    assert imported.loss == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    assert 0.02 < imported.loss < MAX_LOSS
    base, expected = logits(load_model(slow)), applied_logits(model)
    error = (merged_logits(slow, imported.adapter, high) - expected).norm() / (expected - base).norm()
    assert error < 2 * imported.loss


def test_randomised_svd_of_other_weights_is_refused_as_such(slow: Path, tmp_path: Path) -> None:
    factors = build_factors(slow, rank=18, out_dir=tmp_path, progress=False)
    model = load_model(slow)
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):  # a tenth of the weight's size, as of a model trained further
            weight.data += 0.1 * weight.norm() * torch.nn.functional.normalize(torch.randn_like(weight), dim=(0, 1))
    model.save_pretrained(tmp_path / "further")
    other = randomised(tmp_path / "further")
    with pytest.raises(CheckpointError, match="other base weights"):
        import_lora_xs(state(other), factors, config=config_of(other))


def test_frozen_matrices_that_are_no_singular_vectors_are_refused(base: Base) -> None:
    model = lora_xs(base[0])
    for layer in lora_layers(model):
        layer.lora_A["default"].weight.data.normal_()
    with pytest.raises(CheckpointError, match="A and B are no leading singular vectors"):
        import_lora_xs(state(model), base[1], config=config_of(model))


def test_random_factors_cannot_carry_singular_vectors(base: Base, tmp_path: Path) -> None:
    factors = build_factors(base[0], rank=RANK, kind="random", out_dir=tmp_path, progress=False)
    model = lora_xs(base[0])
    with pytest.raises(CheckpointError, match=r"random factors of this server.*needs svd factors"):
        import_lora_xs(state(model), factors, config=config_of(model))


def test_checkpoint_of_other_base_weights_is_refused(base: Base, tmp_path: Path) -> None:
    model = lora_xs(save_model(tmp_path, seed=1))
    with pytest.raises(CheckpointError, match="other base weights"):
        import_lora_xs(state(model), base[1], config=config_of(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({PREFIX + ".lora_A.weight": None}, "q_proj.lora_A' is missing"),
        ({PREFIX + ".lora_B.weight": None}, "q_proj.lora_B' is missing"),
        ({PREFIX + ".default_lora_latent_mapping.weight": None}, "q_proj.lora_latent_mapping' is missing"),
        ({PREFIX + ".lora_A.weight": torch.zeros(3, 32)}, r"shape \(3, 32\), expected \(4, 32\)"),
        ({PREFIX + ".default_lora_latent_mapping.weight": torch.zeros(16)}, r"shape \(16,\), expected \(4, 4\)"),
        ({PREFIX + ".default_lora_latent_mapping.weight": torch.full((4, 4), float("nan"))}, "NaN"),
        ({PREFIX + ".lora_B.weight": torch.zeros(32, 4, dtype=torch.bool)}, "dtype torch.bool"),
        ({"base_model.model.model.layers.0.mlp.gate.lora_A.weight": torch.zeros(4, 32)}, "cannot be served.*mlp.gate"),
        ({"base_model.model.lm_head.weight": torch.zeros(64, 32)}, "cannot be served: .*lm_head"),
    ],
)
def test_broken_checkpoint_is_refused_with_what_was_wrong(
    base: Base, whole: Whole, changes: dict[str, Tensor | None], message: str
) -> None:
    tensors, config = whole
    broken = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(safetensors.torch.save(broken), base[1], config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 5}, "rank 5, expected 1..4"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"use_dora": True}, "use_dora"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern"),
        ({"peft_type": "VERA"}, "peft_type is 'VERA'"),
    ],
)
def test_configuration_that_does_not_fit_is_refused(
    base: Base, whole: Whole, changes: dict[str, object], message: str
) -> None:
    tensors, config = whole
    with pytest.raises(CheckpointError, match=message):
        import_lora_xs(tensors, base[1], config=config | changes)
