"""The optimiser against the formulas of its paper, torch's own clipping, and itself without interruption."""

import math

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from adapters.vector.errors import CheckpointError
from server.training.worker.adam import Adam, AdamConfig

SHAPE = (13, 2)


def parameter(seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)))


def gradient(step: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(100 + step))


def take_steps(v: nn.Parameter, adam: Adam, steps: range) -> None:
    for step in steps:
        v.grad = gradient(step)
        assert adam.step(0.01 / (1 + step)).applied


def test_steps_follow_the_paper() -> None:
    v = parameter()
    expected, mean, square = v.detach().double(), torch.zeros(SHAPE).double(), torch.zeros(SHAPE).double()
    adam = Adam(v, AdamConfig(beta1=0.8, beta2=0.95, eps=1e-6, max_gradient_norm=None))
    for step in range(1, 6):
        g = gradient(step).double()
        mean, square = 0.8 * mean + 0.2 * g, 0.95 * square + 0.05 * g**2
        expected -= 0.01 * (mean / (1 - 0.8**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-6)
        v.grad = gradient(step)
        adam.step(0.01)
    torch.testing.assert_close(v.double(), expected, rtol=1e-5, atol=1e-6)
    assert v.grad is None


def test_resuming_from_bytes_gives_the_same_bits() -> None:
    v, resumed = parameter(), parameter(1)
    adam, later = Adam(v, AdamConfig()), Adam(resumed, AdamConfig())
    take_steps(v, adam, range(4))
    later.state_from_bytes(adam.state_to_bytes())
    assert torch.equal(resumed, v)
    take_steps(v, adam, range(4, 9))
    take_steps(resumed, later, range(4, 9))
    assert torch.equal(resumed, v)
    assert later.state_to_bytes() == adam.state_to_bytes()


def test_resuming_before_the_first_step_gives_the_same_bits() -> None:
    v, resumed = parameter(), parameter(1)
    adam, later = Adam(v, AdamConfig()), Adam(resumed, AdamConfig())
    later.state_from_bytes(adam.state_to_bytes())
    take_steps(v, adam, range(3))
    take_steps(resumed, later, range(3))
    assert later.state_to_bytes() == adam.state_to_bytes()


def test_long_gradients_are_scaled_down_as_torch_does() -> None:
    v, reference = parameter(), parameter()
    adam, expected = Adam(v, AdamConfig(max_gradient_norm=0.5)), torch.optim.Adam([reference], lr=0.01)
    for step in range(3):
        v.grad, reference.grad = gradient(step), gradient(step)
        report = adam.step(0.01)
        assert report.gradient_norm == pytest.approx(gradient(step).norm().item()) and report.gradient_norm > 0.5
        nn.utils.clip_grad_norm_([reference], 0.5)
        expected.step()
    torch.testing.assert_close(v, reference)


def test_numbers_stay_within_the_largest_magnitude() -> None:
    v = parameter()
    take_steps(v, Adam(v, AdamConfig(max_magnitude=0.25)), range(1))
    assert v.abs().max() == 0.25


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_with_a_gradient_that_is_not_finite_is_not_taken(bad: float) -> None:
    v = parameter()
    adam = Adam(v, AdamConfig())
    take_steps(v, adam, range(2))
    before = adam.state_to_bytes()
    v.grad = gradient(3)
    v.grad[0, 0] = bad
    assert not adam.step(0.01).applied
    assert v.grad is None
    assert adam.state_to_bytes() == before


def test_a_step_without_a_gradient_leaves_a_fresh_vector_alone() -> None:
    v = parameter()
    assert Adam(v, AdamConfig()).step(0.01).gradient_norm == 0
    assert torch.equal(v, parameter())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        safetensors.torch.save({"vector": torch.zeros(SHAPE)}),
        Adam(nn.Parameter(torch.zeros(2, 13)), AdamConfig()).state_to_bytes(),
    ],
    ids=["empty", "nonsense", "vector alone", "other shape"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(data: bytes) -> None:
    v = parameter()
    with pytest.raises(CheckpointError):
        Adam(v, AdamConfig()).state_from_bytes(data)
    assert torch.equal(v, parameter())
