"""Log-probabilities against transformers' own logits, and passes shared by tenants against passes of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

from adapters.apply.trainable import BASE, TrainableAdapters
from server.training.jobs.config import ReinforcementConfig
from server.training.worker.forward import Task, forward_backward, score
from server.training.worker.grpo import grpo_objective
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import sft_objective

LENGTHS = [(3, 2), (1, 7), (6, 4), (2, 9), (5, 1), (4, 4)]
DEFAULT = PassLimits()
# So small that every sequence has a pass, and every token a chunk, of its own.
ONE_BY_ONE = PassLimits(tokens=1, logits=1)

Make = Callable[..., list[TokenSequence]]


def distribution(model: TrainableAdapters, sequence: TokenSequence) -> tuple[Categorical, Tensor]:
    """Of every completion token, from the logits of the whole sequence by itself; and the tokens."""
    tokens_T = torch.tensor([*sequence.prompt, *sequence.completion])
    with torch.no_grad(), model.rows([sequence.adapter]):
        logits_TV = model.model(input_ids=tokens_T[None]).logits[0]
    start = len(sequence.prompt)
    return Categorical(logits=logits_TV[start - 1 : -1] / sequence.temperature), tokens_T[start:]


@pytest.mark.parametrize("limits", [DEFAULT, ONE_BY_ONE, PassLimits(tokens=20, logits=200)])
def test_scores_are_those_of_each_sequence_by_itself(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Make, limits: PassLimits
) -> None:
    first, second = new_adapter(1), new_adapter(2, groups=7, tying="structured")
    batch = [
        *sequences(first, LENGTHS[:3]),
        *sequences(BASE, LENGTHS[3:4], seed=1, temperature=1.5),
        *sequences(second, LENGTHS[4:], seed=2, temperature=0.5),
    ]
    tokens = score(model, batch, limits)
    assert tokens.logprobs_BC.shape == (6, 9)
    for row, sequence in enumerate(batch):
        expected, completion_C = distribution(model, sequence)
        count = len(completion_C)
        torch.testing.assert_close(tokens.logprobs_BC[row, :count], expected.log_prob(completion_C))
        torch.testing.assert_close(tokens.entropy_BC[row, :count], expected.entropy())
        assert torch.equal(tokens.hits_BC[row, :count], expected.probs.argmax(-1) == completion_C)
        assert tokens.mask_BC[row].tolist() == [True] * count + [False] * (9 - count)
        assert not tokens.logprobs_BC[row, count:].any()


def gradients(
    model: TrainableAdapters, tasks: list[Task], limits: PassLimits = DEFAULT
) -> tuple[list[Any], list[Tensor]]:
    handles = [task.batch[0].adapter for task in tasks]
    for handle in handles:
        model.vector(handle).grad = None
    return forward_backward(model, tasks, limits), [model.vector(handle).grad for handle in handles]


def grpo_task(batch: list[TokenSequence], seed: int, **config: object) -> Task:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(len(batch), generator=generator).tolist()
    logprobs = [(-4 * torch.rand(len(s.completion), generator=generator)).tolist() for s in batch]
    return Task(batch, grpo_objective(batch, rewards, [0, 0, 0, 1, 1, 1], ReinforcementConfig(**config), logprobs))


@pytest.mark.parametrize("limits", [DEFAULT, ONE_BY_ONE, PassLimits(tokens=40, logits=300)])
def test_one_tenants_batch_does_not_change_anothers_loss_or_gradient(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Make, limits: PassLimits
) -> None:
    batches = [sequences(new_adapter(seed), LENGTHS, seed) for seed in range(3)]
    tasks = [
        grpo_task(batches[0], 1),
        grpo_task(batches[1], 2, loss_type="grpo", kl_coef=0.2, scale_rewards="batch"),
        Task(batches[2], sft_objective(batches[2])),
    ]
    together, together_gradients = gradients(model, tasks, limits)
    for number, task in enumerate(tasks):
        [alone], [gradient_GU] = gradients(model, [task])
        assert gradient_GU.abs().max() > 1e-3
        torch.testing.assert_close(together_gradients[number], gradient_GU, rtol=1e-3, atol=1e-6)
        assert together[number].loss == pytest.approx(alone.loss, rel=1e-4, abs=1e-6)
        assert together[number].tokens == alone.tokens


def test_a_tenant_whose_vector_overflows_spoils_only_its_own_gradient(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Make
) -> None:
    tasks = [grpo_task(sequences(new_adapter(seed), LENGTHS, seed), seed, kl_coef=0.1) for seed in range(2)]
    _, [before_GU, _] = gradients(model, tasks)
    bad = tasks[1].batch[0].adapter
    model.set_vector(bad, torch.full_like(model.vector(bad), 1e38))
    _, [after_GU, spoilt_GU] = gradients(model, tasks)
    torch.testing.assert_close(after_GU, before_GU)
    assert not spoilt_GU.isfinite().all()


def test_gradients_of_two_calls_add_up(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Make
) -> None:
    task = grpo_task(sequences(new_adapter(0), LENGTHS), 0)
    _, [once_GU] = gradients(model, [task])
    once_GU = once_GU.clone()
    forward_backward(model, [task])
    torch.testing.assert_close(model.vector(task.batch[0].adapter).grad, 2 * once_GU)


def test_gradient_checkpointing_changes_nothing(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Make
) -> None:
    tasks = [grpo_task(sequences(new_adapter(seed), LENGTHS, seed), seed, kl_coef=0.1) for seed in range(2)]
    _, plain = gradients(model, tasks)
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.model.train()
    _, checkpointed = gradients(model, tasks)
    torch.testing.assert_close(checkpointed, plain)


def test_an_empty_completion_is_scored_as_nothing(model: TrainableAdapters, sequences: Make) -> None:
    with_empty = [TokenSequence(BASE, [5, 6], []), *sequences(BASE, LENGTHS[:1])]
    tokens = score(model, with_empty)
    assert not tokens.mask_BC[0].any()
    torch.testing.assert_close(tokens.logprobs_BC[1:], score(model, with_empty[1:]).logprobs_BC)


def test_a_sequence_without_a_prompt_is_refused(model: TrainableAdapters) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        score(model, [TokenSequence(BASE, [], [5])])
