"""A frozen linear with its delta, `y = W x + b + U S (R (V^T x))`, as one function with a gradient for x and R.

Autograd would keep nothing less, but add the delta to y as a matrix of its own, T x out in float32, and its gradient
to that of W as another. Here both are added in place: besides reading and writing y and the gradient of x once more,
only numbers of T x r are computed and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from adapters.apply.thin_product import add_product, kept, project


@dataclass(frozen=True, slots=True)
class LinearFactors:
    """V^T and (U S)^T of one linear, each as thin_product.kept made it. rank: r."""

    shrink_KI: Tensor
    expand_KO: Tensor
    rank: int

    @classmethod
    def on(cls, weight_OI: Tensor, triplet: tuple[Tensor, Tensor, Tensor]) -> LinearFactors:
        """The factors (U, S, V), float32, for a linear with this weight, on its device."""
        u_OR, s_R, v_IR = (factor.to(weight_OI.device) for factor in triplet)
        return cls(kept(v_IR.mT, weight_OI.dtype), kept((u_OR * s_R).mT, weight_OI.dtype), len(s_R))


def adapted_linear(x_PTI: Tensor, r_PRR: Tensor, linear: nn.Linear, factors: LinearFactors) -> Tensor:
    """(P, T, out) in x's dtype; row p has the matrix r_PRR[p], float32. Weight and bias get no gradient."""
    apply: Any = _AdaptedLinear.apply
    y_PTO: Tensor = apply(x_PTI, r_PRR, linear.weight, linear.bias, factors)
    return y_PTO


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_PTI: Tensor, r_PRR: Tensor, weight_OI: Tensor, bias_O: Tensor | None, factors: LinearFactors
    ) -> Tensor:
        y_PTO = nn.functional.linear(x_PTI, weight_OI, bias_O)
        h_PTR = project(x_PTI.flatten(0, 1), factors.shrink_KI, factors.rank).view(*x_PTI.shape[:2], -1)
        # bmm, unlike matmul, refuses a batch of another size than that of x. view, unlike flatten, is never a copy.
        y_NO = y_PTO.view(-1, y_PTO.shape[-1])
        add_product(y_NO, torch.bmm(h_PTR, r_PRR.mT).flatten(0, 1), factors.expand_KO)
        ctx.save_for_backward(h_PTR, r_PRR, weight_OI)
        ctx.factors = factors
        return y_PTO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy_PTO: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        h_PTR, r_PRR, weight_OI = ctx.saved_tensors
        factors: LinearFactors = ctx.factors
        gy_PTO = gy_PTO.contiguous()
        gg_PTR = project(gy_PTO.flatten(0, 1), factors.expand_KO, factors.rank).view_as(h_PTR)
        gx_PTI = None
        if ctx.needs_input_grad[0]:
            gx_PTI = gy_PTO @ weight_OI
            gx_NI = gx_PTI.view(-1, gx_PTI.shape[-1])
            add_product(gx_NI, torch.bmm(gg_PTR, r_PRR).flatten(0, 1), factors.shrink_KI)
        return gx_PTI, torch.bmm(gg_PTR.mT, h_PTR) if ctx.needs_input_grad[1] else None, None, None, None
