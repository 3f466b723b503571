"""Adam (Kingma and Ba, arXiv 1412.6980) on one vector, and the optimizer state as bytes.

It is torch.optim.Adam on the CPU in float32. The state holds the vector as well, so a job that goes on from it gets the
same bits as one that never stopped. The learning rate is an argument of each step, so schedules are the caller's.
"""

import math
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from adapters.vector.errors import CheckpointError
from adapters.vector.safetensors_file import read_safetensors

_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class AdamConfig:
    """Settings; beta1, beta2 and eps as in the paper.

    max_gradient_norm: a gradient whose L2 norm is larger is scaled down to it; None: no limit.
    max_magnitude: after each step every number of v is clamped to -max_magnitude .. max_magnitude; None: no limit.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_gradient_norm: float | None = 1.0
    max_magnitude: float | None = None


@dataclass(frozen=True, slots=True)
class AdamStep:
    """What one step did.

    gradient_norm: L2 norm before it is limited. applied: False when the norm is not finite; v is then unchanged.
    """

    gradient_norm: float
    applied: bool


class Adam:
    """The optimizer of `parameter`, float32 on the CPU."""

    def __init__(self, parameter: nn.Parameter, config: AdamConfig) -> None:
        self._parameter = parameter
        self._config = config
        self._torch = torch.optim.Adam(
            [parameter], betas=(config.beta1, config.beta2), eps=config.eps, foreach=False, fused=False
        )

    def step(self, learning_rate: float) -> AdamStep:
        """Update v from its gradient (a missing one counts as zero), then clear the gradient."""
        parameter = self._parameter
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        norm = parameter.grad.norm().item()
        applied = math.isfinite(norm)
        if applied:
            limit = self._config.max_gradient_norm
            if limit is not None and norm > limit:
                parameter.grad *= limit / norm
            self._torch.param_groups[0]["lr"] = learning_rate
            self._torch.step()
            if self._config.max_magnitude is not None:
                parameter.data.clamp_(-self._config.max_magnitude, self._config.max_magnitude)
        parameter.grad = None
        return AdamStep(norm, applied)

    def state_to_bytes(self) -> bytes:
        """A safetensors file of float32 tensors: vector, exp_avg, exp_avg_sq, step. Equal states give equal bytes."""
        state = self._torch.state[self._parameter]
        zeros = torch.zeros_like(self._parameter)
        tensors = {name: state.get(name, zeros).detach().clone() for name in _MOMENTS}
        tensors["vector"] = self._parameter.detach().clone()
        tensors["step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32).clone()
        return safetensors.torch.save(tensors)

    def state_from_bytes(self, data: bytes) -> None:
        """Load what `state_to_bytes` wrote, vector included.

        Raises CheckpointError when `data` is not such a file, or its vector has another shape.
        """
        tensors = read_safetensors(data)
        shape = self._parameter.shape
        expected = {"vector": shape, "step": torch.Size(()), **dict.fromkeys(_MOMENTS, shape)}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != expected or any(tensor.dtype != torch.float32 for tensor in tensors.values()):
            raise CheckpointError(
                f"an optimiser state of a vector {tuple(shape)} was expected, got {_shapes(tensors)}; resume with the "
                "recipe the training began with"
            )
        with torch.no_grad():
            self._parameter.copy_(tensors["vector"])
        self._torch.state[self._parameter] = {name: tensors[name] for name in ("step", *_MOMENTS)}


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)} in {tensor.dtype}" for name, tensor in sorted(tensors.items()))
