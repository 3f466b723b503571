"""What the answers must be: transformers and PEFT's own TinyLoRA, one sequence at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from peft import TinyLoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from adapters.checkpoints.peft_import import import_peft_tinylora
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from tests.adapters.families import Merged
from tests.engine.running import Generated

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS: dict[str, type[PreTrainedConfig]] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
VOCABULARY = 256


def save_tiny_model(directory: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    """A random model whose weights have a spectrum that falls clearly, as trained weights' does, so that every SVD
    routine finds the same leading vectors."""
    torch.manual_seed(1)
    config = CONFIGS[family](
        hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, vocab_size=VOCABULARY, max_position_embeddings=256, initializer_range=0.2,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            u, s, vh = torch.linalg.svd(weight.data, full_matrices=False)
            weight.data = (u * (s[0] * 0.8 ** torch.arange(len(s)))) @ vh
    model.to(dtype).save_pretrained(directory)
    return directory


class Reference(Protocol):
    """What an engine's answers are compared with."""

    adapters: Sequence[Adapter]

    def logprobs(self, generated: Generated, adapter: int | None) -> list[float]:
        """Log-probability of every generated token given what precedes it; `adapter` None is the base model."""


def logprobs_of(generated: Generated, logits_TV: Tensor) -> list[float]:
    """Of the generated tokens, from the logits of prompt and tokens."""
    logprobs_TV = logits_TV.float().log_softmax(-1)
    start = len(generated.prompt)
    return [logprobs_TV[start + i - 1, token].item() for i, token in enumerate(generated.tokens)]


class MergedReference:
    """Merged weights in transformers."""

    def __init__(self, merged: Merged) -> None:
        self._merged = merged
        self.adapters: Sequence[Adapter] = merged.adapters

    def logprobs(self, generated: Generated, adapter: int | None) -> list[float]:
        return logprobs_of(generated, self._merged.logits(generated.prompt + generated.tokens, adapter))


class PeftReference:
    """PEFT's TinyLoRA with 13 groups of one number on the model at `path`; v is set before every forward."""

    def __init__(self, path: Path, factors: Factors, adapters: int, dtype: torch.dtype = torch.float32) -> None:
        base = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        modules = len(factors.modules)
        config = TinyLoraConfig(r=2, u=1, weight_tying=1 - 13 / modules, target_modules=TARGETS, projection_seed=7)
        self.model = get_peft_model(base, config).eval()
        self.vectors = [p for name, p in self.model.named_parameters() if "tinylora_v" in name]
        generator = torch.Generator().manual_seed(0)
        self.values = 0.5 * torch.randn(adapters, len(self.vectors), 1, generator=generator)
        self.adapters: Sequence[Adapter] = [self._import(values, factors, config) for values in self.values]

    def _import(self, values: Tensor, factors: Factors, config: TinyLoraConfig) -> Adapter:
        self._set(values)
        tensors = {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(self.model).items()}
        return import_peft_tinylora(tensors, factors, config=config.to_dict()).adapter

    def take_frozen_matrices(self, other: "PeftReference") -> None:
        """Have the A, B and P of `other`; in a model of 16 bits PEFT rounds its own."""
        theirs = dict(other.model.named_buffers())
        for name, mine in self.model.named_buffers():
            if "tinylora_" in name:
                mine.copy_(theirs[name])

    def _set(self, values: Tensor) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.vectors, values, strict=True):
                parameter.copy_(value.reshape(parameter.shape))

    def logprobs(self, generated: Generated, adapter: int | None) -> list[float]:
        self._set(torch.zeros_like(self.values[0]) if adapter is None else self.values[adapter])
        tokens = torch.tensor([generated.prompt + generated.tokens])
        with torch.no_grad():
            return logprobs_of(generated, self.model(input_ids=tokens).logits[0])
