"""Scores of tokens from hidden states: the product with the whole vocabulary, in chunks of tokens.

Logits exist for one chunk at a time. Where a gradient is wanted, it is computed with them: a token's log-probability
is one number, so its derivative by the hidden state is one vector, (onehot - p) W / temperature, times the derivative
of what the model does to its logits behind the head. It is as small as the hidden state and all that is kept; the
backward pass multiplies it by the gradient of the log-probability. That is two products with the vocabulary; to compute
the logits again in the backward pass would take three. (The idea: Liger-Kernel's fused linear cross-entropy, arXiv
2410.10989, which needs the loss in advance.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adapters.vector.errors import AdapterError
from server.training.worker.base_model import LogitShape


def head_scores(
    head: nn.Module, shape: LogitShape, hidden_ND: Tensor, target_N: Tensor, temperature_N: Tensor, most_logits: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of N tokens: log-probability and entropy, nats in float32, and whether the token is the most probable one, bool.

    shape: what happens to logits behind the head. hidden_ND: what `head` predicts the tokens target_N from.
    temperature_N: float32, divides the logits. most_logits: numbers of logits in a chunk. Only the
    log-probability has a gradient, for hidden_ND.

    AdapterError for a head that is no plain linear.
    """
    if type(head).forward is not nn.Linear.forward:
        raise AdapterError(f"models with a {type(head).__name__} as their head cannot be trained on")
    apply: Any = _HeadScores.apply
    scores: tuple[Tensor, Tensor, Tensor] = apply(hidden_ND, head, shape, target_N, temperature_N, most_logits)
    return scores


class _HeadScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        head: nn.Linear,
        shape: LogitShape,
        target_N: Tensor,
        temperature_N: Tensor,
        most_logits: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprob_N, entropy_N = (torch.empty_like(temperature_N) for _ in range(2))
        hit_N = torch.empty_like(target_N, dtype=torch.bool)
        # d logprob / d hidden.
        slope_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        size = max(1, most_logits // len(head.weight))
        for start in range(0, len(hidden_ND), size):
            chunk = slice(start, start + size)
            logits_NV = shape(head(hidden_ND[chunk]).float())
            derivative_NV = None if slope_ND is None else shape.derivative(logits_NV)
            logprobs_NV = logits_NV.div_(temperature_N[chunk, None]).log_softmax(-1)
            del logits_NV
            target_N1 = target_N[chunk, None]
            logprob_N[chunk] = logprobs_NV.gather(-1, target_N1)[:, 0]
            hit_N[chunk] = logprobs_NV.argmax(-1) == target_N[chunk]
            p_NV = logprobs_NV.exp()
            entropy_N[chunk] = -torch.linalg.vecdot(p_NV, logprobs_NV)
            del logprobs_NV
            if slope_ND is not None:
                p_NV.scatter_add_(-1, target_N1, -torch.ones_like(target_N1, dtype=p_NV.dtype))
                if derivative_NV is not None:
                    p_NV.mul_(derivative_NV)
                slope_ND[chunk] = p_NV.neg_().to(head.weight.dtype) @ head.weight
        ctx.save_for_backward(slope_ND, temperature_N)
        ctx.mark_non_differentiable(entropy_N, hit_N)
        return logprob_N, entropy_N, hit_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_N: Tensor, *_: Any) -> tuple[Tensor | None, None, None, None, None, None]:
        slope_ND, temperature_N = ctx.saved_tensors
        return slope_ND * (g_N / temperature_N)[:, None].to(slope_ND.dtype), None, None, None, None, None
