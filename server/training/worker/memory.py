"""How much memory a worker needs: a formula in the base model's configuration, for what has not been measured yet.

With D the hidden size, A = heads * head size, I the intermediate size, N the sum of the widths of a layer's norms, V
the vocabulary, L the layers, e bytes of a number (2 in bfloat16), a pass over t tokens takes

    t * (kept + 2 e I + 4 e D + 4 D + 3 e D)  +  12 * min(LOGITS, t V)   bytes, where
    kept = L * layer         without gradient checkpointing, and L e D + layer with it, of
    layer = 4 N + 4 e A + 3 e I

`layer` is what autograd keeps of one layer per token: the inputs of norms in float32; queries, keys, values (repeated
for every head) and the output of attention; gate, silu(gate) and up of the MLP. Frozen linears keep nothing, and their
deltas next to nothing. The other terms: gradients within a layer; the final norm; the hidden states of scored tokens
with their derivatives (head_scores.py); logits, their softmax and its copy in 16 bits.

Of what transformers computes in another way, or with a mixture of experts, this is only a guess; the trainer measures
its first pass and goes on from there (pass_size.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapters.factors.transformers_model import auto_class

# Numbers of logits that exist at a time.
LOGITS = 2**26
BYTES_PER_LOGIT = 12
# Of a process that has loaded torch, transformers and CUDA, without a model; CUDA's part is on the GPU.
PROCESS_BYTES = 5 * 2**27


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Memory of a pass: so many bytes for each token, and those of logits, of which there are at most LOGITS."""

    per_token: int
    vocabulary: int

    def of(self, tokens: int) -> int:
        return tokens * self.per_token + BYTES_PER_LOGIT * min(LOGITS, tokens * self.vocabulary)

    def tokens_in(self, size: int) -> int:
        """The most tokens whose pass takes at most `size` bytes."""
        with_all_logits = size // (self.per_token + BYTES_PER_LOGIT * self.vocabulary)
        return max(0, with_all_logits, (size - BYTES_PER_LOGIT * LOGITS) // self.per_token)


def worker_bytes(config: Any, dtype: torch.dtype, tokens: int, checkpointing: bool) -> int:
    """Bytes of a worker whose passes have `tokens` tokens: the process, the weights and the pass.

    config: of a causal LM (transformers' PreTrainedConfig). dtype: in which the worker has its weights, bfloat16 on a
    GPU and float32 on a CPU. checkpointing: whether activations are computed again in the backward pass, see
    activation_checkpointing.py.
    """
    return PROCESS_BYTES + weights_bytes(config, dtype) + pass_bytes(config, dtype, checkpointing).of(tokens)


def weights_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes of the parameters, those that are tied counted once."""
    return sum(parameter.numel() for parameter in _empty_model(config).parameters()) * dtype.itemsize


def pass_bytes(config: Any, dtype: torch.dtype, checkpointing: bool) -> PassBytes:
    """Bytes of a pass with a gradient, by the formula above."""
    text, size = config.get_text_config(), dtype.itemsize
    hidden, heads = text.hidden_size, text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or hidden // heads
    intermediate = getattr(text, "intermediate_size", None) or 4 * hidden
    if experts := getattr(text, "num_experts_per_tok", None):
        intermediate = experts * (getattr(text, "moe_intermediate_size", None) or intermediate)
    layer = 4 * _norm_width(config) + 4 * size * heads * head_size + 3 * size * intermediate
    layers = text.num_hidden_layers
    kept = layers * size * hidden + layer if checkpointing else layers * layer
    rest = 2 * size * intermediate + (7 * size + 4) * hidden
    return PassBytes(kept + rest, text.vocab_size)


def _norm_width(config: Any) -> int:
    """Numbers per token that go into the norms of one layer."""
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    widths = {"q_norm": text.num_attention_heads * head_size}
    widths["k_norm"] = getattr(text, "num_key_value_heads", text.num_attention_heads) * head_size
    stacks = [module for module in _empty_model(config).modules() if isinstance(module, nn.ModuleList)]
    # A tower that reads images has a stack of its own.
    text_layers = [stack for stack in stacks if len(stack) == text.num_hidden_layers]
    first = max(text_layers or stacks[:1], key=lambda stack: sum(one.numel() for one in stack.parameters()))[0]
    names = [
        name.rpartition(".")[2] for name, module in first.named_modules() if type(module).__name__.endswith("Norm")
    ]
    return sum(widths.get(name, text.hidden_size) for name in names)


def _empty_model(config: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = auto_class(config).from_config(config)
    return model
