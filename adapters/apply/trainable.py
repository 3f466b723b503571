"""A frozen Hugging Face causal LM in which every row of a batch may carry another trainable vector.

Each adapted linear adds `U S (R (V^T x))` with R of the row's own adapter (adapted_linear.py); no weight is changed. R
follows differentiably from v by the same function that serves it (`reconstruct.matrices`). Vectors stay in float32 on
the CPU, where so few numbers cost nothing and give the same bits everywhere; only R goes to the model's GPUs. Rows
never mix, so one pass gives each vector the gradient that it would get alone, even beside a vector that overflows.

It knows no loss and no optimizer, does not load the model, and is for one thread.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from adapters.apply.adapted_linear import LinearFactors, adapted_linear
from adapters.apply.reconstruct import matrices
from adapters.factors.factors import Factors
from adapters.factors.transformers_model import names_in
from adapters.vector.adapter import Adapter
from adapters.vector.errors import FactorsError, VectorError
from adapters.vector.recipe import DType, Recipe

BASE = -1
"""The handle of the model without an adapter."""


class TrainableAdapters:
    """`model` and the adapters that are trained on it.

    model:   a causal LM whose linears the factors name; its parameters are frozen here, and the `forward` of those
             linears is replaced until `close`.
    factors: shared by all adapters. Recipes may differ from adapter to adapter.

    Raises FactorsError when the factors name a module that `model` lacks, or that is no plain linear of their shape.
    """

    def __init__(self, model: nn.Module, factors: Factors) -> None:
        self.model = model.requires_grad_(False)
        self.factors = factors
        self._live: dict[int, _Live] = {}
        self._next_handle = 0
        self._rows: tuple[Tensor, ...] | None = None
        names = names_in(model, factors.modules)
        self._linears = [_linear(model, factors, module, names[module]) for module in factors.modules]
        # A large model is spread over several GPUs; what a linear needs is where its weight is.
        self._devices = [linear.weight.device for linear in self._linears]
        for index, (linear, module) in enumerate(zip(self._linears, factors.modules, strict=True)):
            on_linear = LinearFactors.on(linear.weight, factors.triplet(module))
            cast(Any, linear).forward = partial(self._forward, index, linear, on_linear)

    def close(self) -> None:
        """Give the linears of `model` their own `forward` back."""
        for linear in self._linears:
            del linear.forward

    def add(self, adapter: Adapter) -> int:
        """Put a copy of `adapter` into training, starting from its vector; returns a handle that was never used before.

        Raises FactorsError or RecipeError when it does not fit the factors.
        """
        matrices(adapter, self.factors)
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        self._live[handle] = _Live(adapter.recipe, adapter.factors, nn.Parameter(adapter.vector()))
        return handle

    def remove(self, handle: int) -> None:
        """Take an adapter out of training. Raises KeyError for an unknown handle, as all that take one do."""
        del self._live[handle]

    def vector(self, handle: int) -> nn.Parameter:
        """The parameter v, float32 (groups, u) on the CPU, with its gradient."""
        return self._live[handle].parameter

    def set_vector(self, handle: int, v_GU: Tensor) -> None:
        """Overwrite v; gradient and optimizer state stay. Raises VectorError for another shape."""
        parameter = self.vector(handle)
        if v_GU.shape != parameter.shape:
            raise VectorError(
                f"v must have the shape {tuple(parameter.shape)}, got {tuple(v_GU.shape)}", field="vector"
            )
        with torch.no_grad():
            parameter.copy_(v_GU)

    def adapter(self, handle: int, dtype: DType) -> Adapter:
        """The adapter as it is now, rounded to `dtype`, to be served. Raises VectorError when v is not finite."""
        live = self._live[handle]
        return Adapter.from_vector(live.parameter, live.recipe, live.factors, dtype)

    @contextmanager
    def rows(self, handles_P: Sequence[int]) -> Iterator[None]:
        """Inside, row p of every forward of the model has the adapter `handles_P[p]`, or none where that is BASE.

        Run the backward inside as well, because gradient checkpointing computes forwards again. Outside, the model is
        the base model. Gradients of v add up in `vector(handle).grad`.
        """
        handles = list(dict.fromkeys(handles_P))
        rank = self.factors.rank
        stack_AMRR = torch.stack(
            [
                torch.zeros(len(self.factors.modules), rank, rank)
                if handle == BASE
                else matrices(cast(Adapter, self._live[handle]), self.factors)
                for handle in handles
            ]
        )
        row_P = torch.tensor([handles.index(handle) for handle in handles_P])
        rows = {device: stack_AMRR.to(device)[row_P.to(device)].unbind(1) for device in dict.fromkeys(self._devices)}
        outer, self._rows = self._rows, tuple(rows[device][index] for index, device in enumerate(self._devices))
        try:
            yield
        finally:
            self._rows = outer

    @contextmanager
    def gradients_kept_on_error(self, handles: Iterable[int]) -> Iterator[None]:
        """When an exception leaves the block, the gradients of these vectors are what they were before it."""
        before = {handle: self.vector(handle).grad for handle in handles if handle != BASE}
        before = {handle: None if grad is None else grad.clone() for handle, grad in before.items()}
        try:
            yield
        except BaseException:
            for handle, grad in before.items():
                self.vector(handle).grad = grad
            raise

    def _forward(self, index: int, linear: nn.Linear, factors: LinearFactors, x_PTI: Tensor) -> Tensor:
        if self._rows is None:
            return nn.Linear.forward(linear, x_PTI)
        return adapted_linear(x_PTI, self._rows[index], linear, factors)


@dataclass(frozen=True, slots=True)
class _Live:
    """An adapter whose vector is a parameter, with all attributes that `matrices` needs of an Adapter."""

    recipe: Recipe
    factors: str
    parameter: nn.Parameter

    def vector(self) -> Tensor:
        return self.parameter


def _linear(model: nn.Module, factors: Factors, module: str, name: str) -> nn.Linear:
    """`module`, whose name in `model` is `name`."""
    try:
        linear: Any = model.get_submodule(name)
    except AttributeError as error:
        raise FactorsError(f"the model has no module {module}; use factors built from this model") from error
    if type(linear).forward is not nn.Linear.forward or not linear.weight.is_floating_point():
        raise FactorsError(
            f"{module} is a {type(linear).__name__}, and only plain linears can be trained on; use the original model, "
            "not a quantised one"
        )
    u_OR, _, v_IR = factors.triplet(module)
    shape, expected = tuple(linear.weight.shape), (len(u_OR), len(v_IR))
    if shape != expected:
        raise FactorsError(
            f"{module} has a weight {shape}, the factors of {factors.base_model} say {expected}; use factors built "
            "from this model"
        )
    return cast(nn.Linear, linear)
