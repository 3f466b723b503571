"""A tiny random model of every family that is served: from transformers' own classes, two or three layers each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from adapters.apply.reconstruct import delta_weight
from adapters.factors.default_recipe import default_recipe
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter

VOCABULARY = 256
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SHAPE: Mapping[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 256,
    "initializer_range": 0.2, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
# The window is shorter than the prompts, so an answer without it would be another.
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
HEADS_OF_32 = {"head_dim": None, "hidden_size": 128}  # 32 each; classes that do not know head_dim


@dataclass(frozen=True)
class Family:
    """config: the name of transformers' class. more: what differs from SHAPE. types: of the adapted modules of a layer.
    left_out: as ModelFiles has it."""

    config: str
    more: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[str, ...] = ALL
    left_out: tuple[str, ...] = ()


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GRANITE = {"logits_scaling": 4.0, "attention_multiplier": 0.2}
FUSED_MLP = (*ATTENTION, "gate_up_proj", "down_proj")
FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaConfig"),
    "mistral": Family("MistralConfig", {"sliding_window": 16}),
    "qwen2": Family("Qwen2Config", HEADS_OF_32),
    "qwen3": Family("Qwen3Config"),
    "gemma": Family("GemmaConfig", {"tie_word_embeddings": True}),
    "gemma2": Family(
        "Gemma2Config",
        {**WINDOWS, "tie_word_embeddings": True, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0,
         "final_logit_softcapping": 8.0},
    ),
    "gemma3": Family("Gemma3TextConfig", {**WINDOWS, "tie_word_embeddings": True, "query_pre_attn_scalar": 32}),
    "phi3": Family("Phi3Config", HEADS_OF_32, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "smollm3": Family("SmolLM3Config", HEADS_OF_32),
    "olmo": Family("OlmoConfig", HEADS_OF_32),
    "olmo2": Family("Olmo2Config", HEADS_OF_32),
    "olmo3": Family("Olmo3Config", {**HEADS_OF_32, **WINDOWS}),
    "granite": Family("GraniteConfig", {**HEADS_OF_32, **GRANITE, "residual_multiplier": 0.5}),
    "cohere": Family("CohereConfig", {**HEADS_OF_32, "tie_word_embeddings": True}),
    "exaone4": Family("Exaone4Config", WINDOWS),
    "glm4": Family("Glm4Config", {}, FUSED_MLP),
    "mixtral": Family(
        "MixtralConfig", {"num_local_experts": 4}, ATTENTION, ("block_sparse_moe.experts", "block_sparse_moe.gate")
    ),
    "qwen2_moe": Family(
        "Qwen2MoeConfig",
        {**HEADS_OF_32, **EXPERTS, "shared_expert_intermediate_size": 48},
        ATTENTION,
        ("mlp.experts", "mlp.gate", "mlp.shared_expert", "mlp.shared_expert_gate"),
    ),
    "qwen3_moe": Family("Qwen3MoeConfig", EXPERTS, ATTENTION, ("mlp.experts", "mlp.gate")),
    "olmoe": Family(
        "OlmoeConfig",
        {**HEADS_OF_32, "num_experts": 4, "num_experts_per_tok": 2},
        ATTENTION,
        ("mlp.experts", "mlp.gate"),
    ),
    "granitemoe": Family(
        "GraniteMoeConfig",
        {**HEADS_OF_32, **GRANITE, "num_local_experts": 4, "num_experts_per_tok": 2},
        ATTENTION,
        ("block_sparse_moe.input_linear", "block_sparse_moe.output_linear", "block_sparse_moe.router.layer"),
    ),
    "gpt_oss": Family(
        "GptOssConfig",
        {**WINDOWS, "num_local_experts": 4, "num_experts_per_tok": 2,
         "rope_parameters": {
             "rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128,
             "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}},
        ATTENTION,
        ("mlp.experts", "mlp.router"),
    ),
}  # fmt: skip


def save_family(directory: Path, name: str) -> Path:
    """A model of the family with weights drawn from a seed, norms and biases too."""
    torch.manual_seed(3)
    family = FAMILIES[name]
    options = {key: value for key, value in {**SHAPE, **family.more}.items() if value is not None}
    model = AutoModelForCausalLM.from_config(getattr(transformers, family.config)(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    return directory


class Merged:
    """What answers must be: the model of transformers with an adapter's changes added to its weights, in float32."""

    def __init__(self, path: Path, factors: Factors, adapters: int) -> None:
        self._path, self._factors = path, factors
        generator = torch.Generator().manual_seed(5)
        recipe = default_recipe(factors)
        vectors = 0.5 * torch.randn(adapters, recipe.groups, recipe.u, generator=generator)
        self.adapters = [Adapter.from_vector(v_GU, recipe, factors.digest, "float32") for v_GU in vectors]
        self._models: dict[int | None, PreTrainedModel] = {}

    def model(self, adapter: int | None) -> PreTrainedModel:
        """Of one adapter, or the base model."""
        if adapter not in self._models:
            model = self._models[adapter] = load_model(self._path)
            for module in self._factors.modules if adapter is not None else ():
                weight = model.get_submodule(module).weight
                weight.data += delta_weight(self.adapters[adapter], self._factors, module)
        return self._models[adapter]

    def logits(self, ids: list[int], adapter: int | None) -> Tensor:
        """(T, V) of one sequence."""
        with torch.no_grad():
            logits_TV: Tensor = self.model(adapter)(input_ids=torch.tensor([ids])).logits[0]
        return logits_TV


def load_model(path: Path) -> PreTrainedModel:
    """As the worker loads it. Only transformers' eager attention caps its logits."""
    config = AutoConfig.from_pretrained(path)
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager" if capped else None
    ).eval()
