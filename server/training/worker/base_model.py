"""The base model as a worker needs it: what differs between families, in loading them and behind their heads.

The worker computes log-probabilities from hidden states, so it has to do itself what a model's own forward does to the
logits: some families scale them (Cohere, Granite), some cap them (Gemma 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig

from adapters.factors.transformers_model import auto_class
from adapters.vector.errors import AdapterError

FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
DIVISORS = ("logits_scaling",)
CAP = "final_logit_softcapping"


@dataclass(frozen=True, slots=True)
class LogitShape:
    """logits = cap * tanh(scale * y / cap), y being what the head gives; scale * y without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, y_NV: Tensor) -> Tensor:
        """The logits, in place of y."""
        logits_NV = y_NV if self.scale == 1 else y_NV.mul_(self.scale)
        return logits_NV if self.cap is None else logits_NV.div_(self.cap).tanh_().mul_(self.cap)

    def derivative(self, logits_NV: Tensor) -> Tensor | None:
        """d logits / d y, from the logits; None where it is 1."""
        if self.cap is None:
            return None if self.scale == 1 else torch.full((), self.scale, device=logits_NV.device)
        return (logits_NV / self.cap).square_().neg_().add_(1).mul_(self.scale)


def logit_shape(causal_lm: Any) -> LogitShape:
    """What the model does to its logits behind the head, by its configuration."""
    config = causal_lm.config.get_text_config()
    scale = 1.0
    for name in FACTORS:
        scale *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        scale /= getattr(config, name, None) or 1.0
    return LogitShape(scale, getattr(config, CAP, None))


def load_base_model(directory: Path, dtype: torch.dtype, **options: Any) -> nn.Module:
    """The causal LM in `directory`, for inference; `options` are those of `from_pretrained`.

    Of transformers' ways of attention only `eager` caps its logits.
    """
    config = AutoConfig.from_pretrained(directory)
    is_capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    if is_capped:
        options["attn_implementation"] = "eager"
    return cast(nn.Module, auto_class(config).from_pretrained(directory, dtype=dtype, **options).eval())


def check_logits(causal_lm: Any) -> None:
    """AdapterError when the model's own logits are not those that `logit_shape` says."""
    ids_1T = torch.arange(1, 5, device=causal_lm.device)[None]
    with torch.no_grad():
        theirs_TV = causal_lm(input_ids=ids_1T, use_cache=False).logits[0].float()
        hidden_1TD = causal_lm.get_decoder()(input_ids=ids_1T, use_cache=False).last_hidden_state
        head = causal_lm.get_output_embeddings()
        ours_TV = logit_shape(causal_lm)(head(hidden_1TD[0].to(head.weight.device)).float()).to(theirs_TV.device)
    # Rounding to the model's dtype, here and there in another place.
    tolerance = 8 * torch.finfo(causal_lm.dtype).eps * theirs_TV.abs().max()
    if not bool((ours_TV - theirs_TV).abs().max() <= tolerance):
        raise AdapterError(
            f"{type(causal_lm).__name__} changes its logits behind the head in a way that is not known here, so it "
            "cannot be trained on; it can be served, with adapters trained elsewhere"
        )


def end_tokens(model: str | Path, config: Any) -> frozenset[int]:
    """At which `model` (a directory or a hub id), with transformers' `config`, stops, beside its tokenizer's own."""
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # It has no file of its own.
        generation = GenerationConfig.from_model_config(config)
    ends = generation.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
