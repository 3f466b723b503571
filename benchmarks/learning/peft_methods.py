"""PEFT's adapters that this project's are compared with.

Each is on every linear layer of every block, and begins as the base model.

tinylora     PEFT's TinyLoRA with 13 numbers: one per group of 16 layers next to each other (18 in the last), as the arm
             `grpo`. Its random matrices and how it shares out singular values are PEFT's own.
lora-xs      LoRA-XS (arXiv 2405.17604): W + U S R V^T, U S and V^T of rank 2 frozen, only R (2 x 2) trained. PEFT has
             none of its own, so this is its TinyLoRA layer with u = 4 and no sharing, its four projections set to the
             unit matrices, so that v is R, and its A and B set from PEFT's S^1/2 V^T and U S^1/2 to V^T and U S. R
             begins at zero instead of at random numbers of size 1e-5.
rank-1-lora  PEFT's LoRA with r = 1 and alpha = 32.
vera         PEFT's VeRA (arXiv 2310.11454) with its defaults: two random matrices of rank 256, shared by all layers; a
             vector of 256 numbers, and one as long as the layer's output, are trained for each layer.
"""

from __future__ import annotations

from typing import Any

import peft
import torch

NUMBERS = 13
RANK = 2
LORA_ALPHA = 32
# LoRA: with alpha 32 the best rate is about ten times that of full fine-tuning, whatever the rank ("LoRA Without
# Regret", Schulman et al. 2025); at this one it learns fast from 48 completions a step, and forgets from four. LoRA-XS,
# VeRA: the order of magnitude of their authors' runs, for few numbers have to move visibly. TinyLoRA: as our own
# demonstration once.
LEARNING_RATES = {"rank-1-lora": 5e-4, "lora-xs": 2e-3, "tinylora": 4e-3, "vera": 4e-3}


def adapted(model: Any, method: str) -> Any:
    """PEFT's model of `method`, one of LEARNING_RATES, which is still the base model."""
    common: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    match method:
        case "rank-1-lora":
            return peft.get_peft_model(model, peft.LoraConfig(r=1, lora_alpha=LORA_ALPHA, **common))
        case "lora-xs":
            return _with_r_trained(peft.get_peft_model(model, peft.TinyLoraConfig(r=RANK, u=RANK**2, **common)))
        case "tinylora":
            head = model.get_output_embeddings()
            layers = sum(isinstance(one, torch.nn.Linear) and one is not head for one in model.modules())
            config = peft.TinyLoraConfig(r=RANK, u=1, weight_tying=1 - NUMBERS / layers, **common)
            return peft.get_peft_model(model, config)
        case "vera":
            return peft.get_peft_model(model, peft.VeraConfig(**common))
    raise AssertionError(method)


def trained_numbers(model: Any) -> int:
    """How many numbers of an adapted model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _with_r_trained(model: Any) -> Any:
    """PEFT's TinyLoRA of u = r * r as LoRA-XS; see the module."""
    for layer in model.modules():
        if isinstance(layer, peft.tuners.tinylora.TinyLoraLayer):
            a_RI, b_OR = layer.tinylora_A["default"], layer.tinylora_B["default"]
            root_R = a_RI.norm(dim=1)  # of the singular values, for the rows of V^T have length 1
            layer.tinylora_A["default"] = a_RI / root_R[:, None]
            layer.tinylora_B["default"] = b_OR * root_R
            layer.tinylora_P["default"] = torch.eye(RANK**2).reshape(RANK**2, RANK, RANK)
    return model
