"""Finding a model's weights on disk, against checkpoints that transformers wrote and its own idea of their modules."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from adapters.factors.model_directory import locate_model
from adapters.factors.model_files import read_model
from adapters.vector.errors import FactorsError

SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 11, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 16, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "mistral": (MistralForCausalLM, MistralConfig),
    "phi3": (Phi3ForCausalLM, Phi3Config),
}


def tiny(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model, config = FAMILIES[family]
    return model(config(**SHAPE))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-llama"
    tiny("llama").save_pretrained(path)
    return path


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path) | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(kept, path, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_linears_of_every_layer_are_found_in_the_models_own_order(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    tiny(family).to(dtype).save_pretrained(tmp_path)
    files = read_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    linears = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    del linears["lm_head"]
    assert {weight.module for weight in files.weights} == linears.keys()
    layers = [int(weight.module.split(".")[2]) for weight in files.weights]
    assert layers == sorted(layers)
    types = [weight.module.rpartition(".")[2] for weight in files.weights if ".0." in weight.module]
    if family == "phi3":
        assert types == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    else:
        assert types == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for weight in files.weights:
        assert torch.equal(weight.read(), linears[weight.module].float())
        assert weight.shape == tuple(linears[weight.module].shape)


def test_a_sharded_model_is_the_same_model(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "one")
    tiny("llama").save_pretrained(tmp_path / "many", max_shard_size="40KB")
    one, many = read_model(tmp_path / "one"), read_model(tmp_path / "many")
    assert len({weight.file for weight in many.weights}) > 3
    assert [weight.module for weight in one.weights] == [weight.module for weight in many.weights]
    assert one.fingerprint() == many.fingerprint()


def test_the_fingerprint_follows_the_contents_and_not_the_directory(llama: Path, tmp_path: Path) -> None:
    before = read_model(llama).fingerprint()
    shutil.copytree(llama, tmp_path / "copy", copy_function=shutil.copyfile)
    assert read_model(tmp_path / "copy").fingerprint() == before
    name = "model.layers.3.mlp.up_proj.weight"
    weight = safetensors.torch.load_file(llama / "model.safetensors")[name]
    weight[17, 5] += 1
    edit_weights(llama, {name: weight})
    assert read_model(llama).fingerprint() != before


def test_the_fingerprint_of_a_large_weight_notices_training_and_another_dtype(tmp_path: Path) -> None:
    config = LlamaConfig(**SHAPE | {"num_hidden_layers": 1, "hidden_size": 512, "intermediate_size": 1100})
    model = LlamaForCausalLM(config)
    fingerprints = set()
    for step in range(3):
        if step == 1:
            model.model.layers[0].mlp.down_proj.weight.data += 1e-3
        if step == 2:
            model.bfloat16()
        model.save_pretrained(tmp_path)
        fingerprints.add(read_model(tmp_path).fingerprint())
    assert len(fingerprints) == 3


def test_a_model_is_named_by_its_directory_or_its_repository_in_the_hubs_cache(llama: Path, tmp_path: Path) -> None:
    assert read_model(llama).name == "tiny-llama"
    snapshot = tmp_path / "models--acme--tiny-llama" / "snapshots" / "0123abcd"
    shutil.copytree(llama, snapshot)
    assert read_model(snapshot).name == "acme/tiny-llama"


def test_quantised_models_are_refused_with_what_to_do(llama: Path) -> None:
    name = "model.layers.1.mlp.up_proj"
    edit_weights(llama, {f"{name}.weight": None, f"{name}.qweight": torch.zeros(4, 4, dtype=torch.int32)})
    with pytest.raises(FactorsError, match=r"quantised.*original weights"):
        read_model(llama)
    edit_weights(llama, {f"{name}.weight": torch.zeros(48, 32, dtype=torch.int8), f"{name}.qweight": None})
    with pytest.raises(FactorsError, match=r"I8.*original"):
        read_model(llama)
    edit_config(llama, quantization_config={"quant_method": "awq"})
    with pytest.raises(FactorsError, match=r"quantised.*original weights"):
        read_model(llama)


def test_of_a_mixture_of_experts_the_attention_is_adapted_and_the_rest_is_named(tmp_path: Path) -> None:
    MixtralForCausalLM(MixtralConfig(**SHAPE | {"num_hidden_layers": 2})).save_pretrained(tmp_path)
    files = read_model(tmp_path)
    assert [weight.module.removeprefix("model.layers.0.self_attn.") for weight in files.weights[:4]] == [
        "q_proj", "k_proj", "v_proj", "o_proj",
    ]  # fmt: skip
    assert len(files.weights) == 8
    assert files.left_out == ("block_sparse_moe.experts", "block_sparse_moe.gate")


def test_layers_of_another_kind_may_have_other_modules(tmp_path: Path) -> None:
    """A dense layer before those with experts, and an expert shared by all."""
    config = Qwen2MoeConfig(
        **SHAPE | {"num_hidden_layers": 3}, mlp_only_layers=[0], num_experts=4, moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )  # fmt: skip
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path)
    files = read_model(tmp_path)
    types = [weight.module.rpartition(".")[2] for weight in files.weights]
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert types == [*attention, "gate_proj", "up_proj", "down_proj", *attention, *attention]
    assert files.left_out == ("mlp.experts", "mlp.gate", "mlp.shared_expert", "mlp.shared_expert_gate")
    edit_weights(tmp_path, {"model.layers.2.self_attn.k_proj.weight": None})
    with pytest.raises(FactorsError, match=r"layer 2 has .* layer 1 has"):
        read_model(tmp_path)


def test_a_model_without_such_modules_is_refused(llama: Path) -> None:
    tensors = safetensors.torch.load_file(llama / "model.safetensors")
    edit_weights(llama, {name: None for name in tensors if "layers" in name})
    with pytest.raises(FactorsError, match="expected one stack of 11 layers"):
        read_model(llama)


def test_a_missing_weight_or_layer_is_noticed(llama: Path) -> None:
    edit_weights(llama, {"model.layers.5.self_attn.k_proj.weight": None})
    with pytest.raises(FactorsError, match="layer 5"):
        read_model(llama)
    edit_config(llama, num_hidden_layers=12)
    with pytest.raises(FactorsError, match="stack of 12 layers"):
        read_model(llama)


def test_missing_or_damaged_files_are_named(llama: Path, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "many", max_shard_size="40KB")
    shard = sorted((tmp_path / "many").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FactorsError, match=shard.name):
        read_model(tmp_path / "many")
    (llama / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FactorsError, match="not a readable safetensors file"):
        read_model(llama)
    (llama / "model.safetensors").unlink()
    with pytest.raises(FactorsError, match=r"lacks model\.safetensors"):
        read_model(llama)
    for content in ("[]", "{", "{}"):
        (llama / "config.json").write_text(content)
        with pytest.raises(FactorsError, match=r"config\.json"):
            read_model(llama)
    (llama / "config.json").unlink()
    with pytest.raises(FactorsError, match="model directory"):
        read_model(llama)


def test_something_that_is_neither_a_directory_nor_a_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FactorsError, match="neither a directory nor a model"):
        locate_model(tmp_path / "absent" / "model")
    assert locate_model(tmp_path) == tmp_path
