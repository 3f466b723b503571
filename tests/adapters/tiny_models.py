"""Tiny random Llama, Qwen2, OPT and Phi-3 checkpoints, and their logits: what the import and export tests share."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from adapters.apply.reconstruct import delta_weight
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter

ALL_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    # Ten times the usual spread: weights large enough for an adapter to move the logits visibly.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}
CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "opt": (OPTForCausalLM, OPTConfig),
    "phi3": (Phi3ForCausalLM, Phi3Config),
}


def save_model(directory: Path, family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(seed)
    of, config = CLASSES[family]
    model = of(config(**SHAPE))
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            weight.data = with_clear_spectrum(weight.data)
    path = directory / f"{family}-{seed}-{str(dtype).rpartition('.')[2]}"
    model.to(dtype).save_pretrained(path)
    return path


def with_clear_spectrum(weight: Tensor) -> Tensor:
    """`weight` with singular values that fall by a quarter each, as trained weights' do: random ones are so close that
    float32 does not determine their vectors, and two correct decompositions differ visibly."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return (left * (values[0] * 0.75 ** torch.arange(len(values)))) @ right


def load_model(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


def logits(model: torch.nn.Module) -> Tensor:
    tokens = torch.arange(24).reshape(2, 12) * 5 % SHAPE["vocab_size"]
    with torch.no_grad():
        return model(input_ids=tokens).logits.float()


def merged_logits(path: Path, adapter: Adapter, factors: Factors) -> Tensor:
    """Logits of the float32 model at `path` with every delta W of `adapter` added to its weights."""
    model = load_model(path)
    for module in factors.modules:
        model.get_submodule(module).weight.data += delta_weight(adapter, factors, module)
    return logits(model)
