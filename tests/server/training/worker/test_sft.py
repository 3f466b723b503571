"""The supervised loss and its gradient, against transformers' own loss on PEFT's TinyLoRA."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.adam import Adam, AdamConfig
from server.training.worker.forward import Task, forward_backward
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import SftMetrics, sft_objective
from tests.adapters.peft_checkpoints import peft_model, with_our_signs

IGNORED = -100
LENGTHS = [(3, 2), (1, 7), (6, 4), (2, 9)]


@pytest.mark.parametrize("limits", [PassLimits(), PassLimits(tokens=12, logits=100)])
def test_loss_and_gradient_are_transformers_and_pefts(
    path: Path,
    factors: Factors,
    model: TrainableAdapters,
    sequences: Callable[..., list[TokenSequence]],
    limits: PassLimits,
) -> None:
    peft = with_our_signs(peft_model(path, u=3, weight_tying=1 - 4 / 14, projection_seed=3), factors)
    vectors = [peft.base_model.tinylora_v["default"][str(group)] for group in range(4)]
    recipe = Recipe(u=3, groups=4, seed=3, projection="peft", convention="sqrt")
    handle = model.add(Adapter.from_vector(torch.stack(list(vectors)), recipe, factors.digest, "float32"))
    batch = sequences(handle, LENGTHS)

    longest = max(map(len, batch))
    input_ids, mask, labels = (torch.full((len(batch), longest), fill) for fill in (0, 0, IGNORED))
    for row, sequence in enumerate(batch):
        tokens = torch.tensor([*sequence.prompt, *sequence.completion])
        input_ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        labels[row, len(sequence.prompt) : len(tokens)] = tokens[len(sequence.prompt) :]
    loss = peft(input_ids=input_ids, attention_mask=mask, labels=labels).loss
    loss.backward()

    [metrics] = forward_backward(model, [Task(batch, sft_objective(batch))], limits)
    assert metrics.loss == pytest.approx(loss.item(), rel=1e-4)
    assert metrics.tokens == sum(completion for _, completion in LENGTHS)
    expected_GU = torch.stack([vector.grad for vector in vectors])
    torch.testing.assert_close(model.vector(handle).grad, expected_GU, rtol=1e-3, atol=1e-5)


def test_thirteen_numbers_learn_a_batch_a_little(
    model: TrainableAdapters, factors: Factors, sequences: Callable[..., list[TokenSequence]]
) -> None:
    handle = model.add(Adapter(Recipe(), factors.digest, "bfloat16", bytes(26)))
    batch = sequences(handle, LENGTHS)
    task, adam = Task(batch, sft_objective(batch)), Adam(model.vector(handle), AdamConfig())
    losses = []
    for _ in range(30):
        [metrics] = forward_backward(model, [task])
        losses.append(metrics.loss)
        assert adam.step(0.03).applied
    assert losses[-1] < losses[0] - 0.3


def test_batches_add_up_and_accuracy_is_the_share_of_hits() -> None:
    total = SftMetrics(loss=1.0, tokens=6, hits=3) + SftMetrics(loss=0.5, tokens=2, hits=1)
    assert (total.loss, total.tokens, total.accuracy) == (1.5, 8, 0.5)
    assert SftMetrics().accuracy == 0


def test_the_error_of_a_loss_is_that_of_its_rows(
    model: TrainableAdapters, new_adapter: Callable[..., int], sequences: Callable[..., list[TokenSequence]]
) -> None:
    batch = sequences(new_adapter(0), [(3, 4)] * 6)
    # In many passes and in one.
    for limits in (PassLimits(tokens=12), PassLimits()):
        [metrics] = forward_backward(model, [Task(batch, sft_objective(batch))], limits)
        means = torch.tensor([loss / tokens for _, loss, tokens in metrics.lines])
        assert len(means) == 6
        assert metrics.loss == pytest.approx(means.mean().item(), abs=1e-5)
        assert metrics.error == pytest.approx(means.std().item() / 6**0.5, abs=1e-5)
    assert SftMetrics(loss=1.0, tokens=6, lines=((1, 6.0, 6),)).error == 0
    # The answers of a conversation are one.
    of_two = SftMetrics(loss=2.0, tokens=8, lines=((1, 4.0, 4), (2, 12.0, 4)))
    halves = ((1, 2.0, 2), (2, 6.0, 2), (1, 2.0, 2), (2, 6.0, 2))
    assert SftMetrics(loss=2.0, tokens=8, lines=halves).error == of_two.error > 0
