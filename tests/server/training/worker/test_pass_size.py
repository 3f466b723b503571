"""Passes within the memory that is left, against passes that nothing bounds. Memory is counted, or said to be full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from adapters.apply.trainable import TrainableAdapters
from server.core.host_memory import available_memory
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.device_memory import CudaMemory, HostMemory
from server.training.worker.forward import Task, forward_backward, score
from server.training.worker.grpo import grpo_objective
from server.training.worker.live_bytes import LiveBytes
from server.training.worker.memory import pass_bytes, weights_bytes
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import DoesNotFit, FittingPasses, PassLimits, PassSizes, check_weights
from tests.server.support.fixed_memory import FixedMemory

LENGTHS = [(3, 9), (5, 20), (2, 14), (8, 31), (4, 4), (6, 12), (1, 25), (9, 40)]
# Of the sequences of `tasks`.
LONGEST = 44
PLENTY = 10**12

Make = Callable[..., list[TokenSequence]]


@pytest.fixture
def tasks(new_adapter: Callable[..., int], sequences: Make) -> list[Task[Any]]:
    """Three jobs with two prompts each, of which completions share one."""
    result = []
    for seed in range(3):
        batch = sequences(new_adapter(seed), LENGTHS, seed)
        batch[4:] = [TokenSequence(one.adapter, batch[4].prompt, one.completion) for one in batch[4:]]
        rewards = torch.rand(len(batch), generator=torch.Generator().manual_seed(seed)).tolist()
        objective = grpo_objective(batch, rewards, [0] * 4 + [1] * 4, ReinforcementConfig(kl_coef=0.1 * seed))
        result.append(Task(batch, objective))
    return result


def gradients(model: TrainableAdapters, tasks: list[Task[Any]], sizes: PassSizes) -> tuple[list[Any], list[Tensor]]:
    handles = [task.batch[0].adapter for task in tasks]
    for handle in handles:
        model.vector(handle).grad = None
    metrics = forward_backward(model, tasks, sizes)
    return metrics, [model.vector(handle).grad.clone() for handle in handles]


def assert_equal(ours: tuple[list[Any], list[Tensor]], expected: tuple[list[Any], list[Tensor]]) -> None:
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-4, atol=1e-6)
    for one, other in zip(ours[0], expected[0], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-6)
        assert (one.tokens, one.groups) == (other.tokens, other.groups)


@contextmanager
def passes_of(model: TrainableAdapters) -> Iterator[list[int]]:
    """The tokens of each forward pass, padding included."""
    seen: list[int] = []
    embeddings = model.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    yield seen
    hook.remove()


def fits(model: TrainableAdapters, memory: Any, tokens: int = 2**14) -> FittingPasses:
    return FittingPasses(PassLimits(tokens=tokens), model.model, memory)


def formula(model: TrainableAdapters, tokens: int, checkpointing: bool) -> int:
    return pass_bytes(model.model.config, torch.float32, checkpointing).of(tokens)


@pytest.mark.parametrize("share", [1.3, 2.5, 5.0, 20.0])
def test_no_pass_takes_more_than_is_left_and_the_gradient_is_the_same(
    model: TrainableAdapters, tasks: list[Task[Any]], share: float
) -> None:
    memory = FixedMemory(int(share * 1.2 * formula(model, LONGEST, True)))
    expected = gradients(model, tasks, PassLimits())
    sizes = fits(model, memory)
    for _ in range(2):  # before and after something was measured
        with LiveBytes() as live:
            ours = gradients(model, tasks, sizes)
        assert live.peak < memory.left + 20_000  # and the packed batch itself
        assert_equal(ours, expected)
    assert max(memory.peaks) < memory.left


def test_what_the_first_pass_took_makes_the_next_ones_larger(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    sizes = fits(model, FixedMemory(2 * formula(model, 120, False)))
    with passes_of(model) as seen:
        gradients(model, tasks[:1], sizes)
        first = list(seen)
        gradients(model, tasks[:1], sizes)
    second = seen[len(first) :]
    assert len(second) < len(first)
    assert max(second) > 1.3 * first[0]


def test_where_a_sequence_does_not_fit_its_layers_are_computed_again(
    model: TrainableAdapters, tasks: list[Task[Any]]
) -> None:
    layer_runs: list[int] = []
    hook = model.model.model.layers[0].self_attn.register_forward_hook(lambda *_: layer_runs.append(1))

    def runs(left: int) -> tuple[bool, tuple[list[Any], list[Tensor]]]:
        """Whether a layer was run more often than there were passes; and the gradients."""
        layer_runs.clear()
        with passes_of(model) as seen:
            result = gradients(model, tasks[:1], fits(model, FixedMemory(left)))
        return len(layer_runs) > len(seen), result

    plain, checkpointed = (1.25 * formula(model, LONGEST, mode) / 0.9 for mode in (False, True))
    assert checkpointed < 0.9 * plain
    (with_plenty, expected), (with_little, ours) = runs(PLENTY), runs(int((plain + checkpointed) / 2))
    hook.remove()
    assert (with_plenty, with_little) == (False, True)
    assert_equal(ours, expected)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")
# In words of those that take memory beside PyTorch's allocator.
FULL_ELSEWHERE = [
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *((where, FULL) for where in ("forward", "backward", "after another job's gradient was added")),
        *(("forward", error) for error in FULL_ELSEWHERE),
    ],
)
def test_a_pass_that_does_not_fit_is_run_again_as_two(
    model: TrainableAdapters, tasks: list[Task[Any]], where: str, error: RuntimeError
) -> None:
    expected = gradients(model, tasks, PassLimits())
    started: list[int] = []

    def full(tokens: int) -> None:
        started.append(tokens)
        if tokens > 100:
            raise error

    def on_forward(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tokens = inputs[0].numel()
        if where == "forward":
            full(tokens)
        elif where == "backward":
            output.requires_grad_().register_hook(lambda _: full(tokens))
        else:
            started.append(tokens)
        return output

    hooks = [model.model.get_input_embeddings().register_forward_hook(on_forward)]
    if where not in ("forward", "backward"):
        # Called behind the accumulation into the vector of the last job.
        last = model.vector(tasks[2].batch[0].adapter)
        hooks.append(last.register_post_accumulate_grad_hook(lambda _: full(started[-1])))
    ours = gradients(model, tasks, fits(model, FixedMemory(PLENTY, can_try=True)))
    for hook in hooks:
        hook.remove()
    assert max(started) > 100 >= started[-1]
    assert_equal(ours, expected)


def test_a_sequence_that_never_fits_ends_with_the_sum(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    with pytest.raises(DoesNotFit, match=rf"sequence of {LONGEST} tokens takes 0\.00 GiB .* with gradient checkpoint"):
        gradients(model, tasks, fits(model, FixedMemory(formula(model, LONGEST, True) // 2)))
    attempts = []

    def full(*_: Any) -> None:
        attempts.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB.")

    hook = model.model.get_input_embeddings().register_forward_hook(full)
    with pytest.raises(DoesNotFit, match="are left on the device"):
        gradients(model, tasks, fits(model, FixedMemory(PLENTY, can_try=True)))
    hook.remove()
    assert 2 < len(attempts) < 20
    assert all(model.vector(task.batch[0].adapter).grad is None for task in tasks)


def test_another_error_is_not_taken_for_a_full_device(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    hook = model.model.get_input_embeddings().register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        gradients(model, tasks, fits(model, FixedMemory(PLENTY, can_try=True)))
    hook.remove()


def test_the_limit_of_tokens_holds_where_more_would_fit(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    with passes_of(model) as seen:
        gradients(model, tasks, fits(model, FixedMemory(PLENTY), tokens=60))
    assert max(seen) <= 60


def test_scores_are_computed_in_the_same_passes(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    batch, memory = list(tasks[0].batch), FixedMemory(int(1.5 * formula(model, LONGEST, True)))
    with passes_of(model) as seen:
        ours = score(model, batch, fits(model, memory))
    assert len(seen) > 2
    expected = score(model, batch)
    torch.testing.assert_close(ours.logprobs_BC, expected.logprobs_BC)


def test_weights_that_do_not_fit_are_a_sentence(model: TrainableAdapters) -> None:
    config = model.model.config
    check_weights(config, torch.float32, FixedMemory(weights_bytes(config, torch.float32)))
    with pytest.raises(DoesNotFit, match=r"weights of the model take .* left on the device: end what else"):
        check_weights(config, torch.float32, FixedMemory(weights_bytes(config, torch.float32) - 1))


def test_a_limit_counts_what_the_process_has() -> None:
    has = psutil.Process().memory_info().rss
    assert HostMemory(has + 50 * 2**20).available() < 100 * 2**20
    assert HostMemory(2**30).name.startswith("this machine within the worker's limit of 1.00 GiB, of which its process")
    assert HostMemory(None).name == "this machine"
    assert HostMemory(None).available() == pytest.approx(available_memory(), rel=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_filled_to_the_limit_and_no_further(model: TrainableAdapters, tasks: list[Task[Any]]) -> None:
    memory = CudaMemory(2 * 2**30)
    left = memory.available()
    assert 0 < left < 2 * 2**30
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(left + 2**28, dtype=torch.uint8, device="cuda")
    _, peak = memory.peak_of(lambda: torch.empty(2**28, dtype=torch.uint8, device="cuda"))
    assert peak == pytest.approx(2**28, rel=0.1)
    expected = gradients(model, tasks, PassLimits())
    on_gpu = TrainableAdapters(model.model.cuda(), model.factors)
    handles = [on_gpu.add(model.adapter(task.batch[0].adapter, "float32")) for task in tasks]
    assert handles == [task.batch[0].adapter for task in tasks]
    assert_equal(gradients(on_gpu, tasks, fits(on_gpu, memory)), expected)
    torch.cuda.set_per_process_memory_fraction(1.0)
