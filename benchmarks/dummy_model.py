"""The shape of a model without its weights: what speed depends on, and nothing that has to be downloaded.

vLLM fills the weights itself (`load_format="dummy"`); the factors are random orthonormal columns. By default the shape
is Qwen2.5-7B's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from adapters.factors.factors import Factors, Triplet, save_factors

RANK = 2
# Of singular values: small enough that no sum overflows in dummy weights' company.
TYPICAL = 0.05


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Qwen2 model."""

    layers: int = 28
    hidden: int = 3584
    intermediate: int = 18944
    heads: int = 28
    kv_heads: int = 4
    vocabulary: int = 152064

    @property
    def head(self) -> int:
        return self.hidden // self.heads

    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every adapted linear, by its name within a layer, in the factors' order."""
        narrow = self.kv_heads * self.head
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (narrow, self.hidden),
            "self_attn.v_proj": (narrow, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def parameters(self) -> int:
        linears = sum(rows * columns for rows, columns in self.linears().values())
        return self.layers * linears + 2 * self.vocabulary * self.hidden

    def kv_bytes_per_token(self, bytes_per_number: int) -> int:
        return 2 * self.layers * self.kv_heads * self.head * bytes_per_number


def write_dummy_model(directory: Path, shape: Shape) -> Factors:
    """Write config.json into `directory`, and factors of rank 2 beside it, in a few seconds for a 7B."""
    from transformers import Qwen2Config

    config = Qwen2Config(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocabulary,
        max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["Qwen2ForCausalLM"], bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config.save_pretrained(directory)
    generator = torch.Generator().manual_seed(0)

    def triplet(rows: int, columns: int) -> Triplet:
        u_OR, v_IR = (torch.linalg.qr(torch.randn(size, RANK, generator=generator))[0] for size in (rows, columns))
        return u_OR, torch.full((RANK,), TYPICAL), v_IR

    return save_factors(
        directory / "factors",
        (
            (f"model.layers.{layer}.{name}", triplet(*size))
            for layer in range(shape.layers)
            for name, size in shape.linears().items()
        ),
        rank=RANK, kind="random", seed=0, base_model=directory.name, config_sha256="0" * 64,
        weights_fingerprint="0" * 64,
    )  # fmt: skip
