from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.apply.trainable import TrainableAdapters
from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.training.worker.forward import Task, forward_backward, score
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import PassLimits
from server.training.worker.sft_objective import sft_objective
from server.training.worker.trainer import Trainer
from tests.adapters.tiny_models import load_model

Sequences = Callable[..., list[TokenSequence]]


@pytest.fixture
async def trainer(path: Path, factors: Factors) -> AsyncIterator[Trainer]:
    trainer = Trainer(lambda: TrainableAdapters(load_model(path), factors))
    yield trainer
    trainer.close()


def start(factors: Factors, number: float) -> Adapter:
    recipe = Recipe()
    return Adapter.from_vector(torch.full((recipe.groups, recipe.u), number), recipe, factors.digest, "float32")


async def test_a_batch_that_cannot_be_trained_costs_the_others_nothing(
    trainer: Trainer, factors: Factors, sequences: Sequences
) -> None:
    handle, vector = await trainer.add(start(factors, 0.1))
    bad_handle, _ = await trainer.add(start(factors, 0.1))
    good = sequences(handle, [(3, 4), (5, 2)])
    bad = [TokenSequence(bad_handle, (), (5, 6))]
    await trainer.forward_backward(Task(good, sft_objective(good)))
    alone = vector.grad
    vector.grad = None
    results = await asyncio.gather(
        *(trainer.forward_backward(Task(batch, sft_objective(batch))) for batch in (good, bad)), return_exceptions=True
    )
    assert results[0].tokens == 6
    assert isinstance(results[1], ValueError)
    assert alone is not None
    assert vector.grad is not None
    torch.testing.assert_close(vector.grad, alone)


async def test_whoever_waits_while_a_pass_runs_shares_the_next_one(
    path: Path, factors: Factors, sequences: Sequences
) -> None:
    model, rows_of_passes = load_model(path), []
    model.get_decoder().register_forward_hook(
        lambda module, inputs, output: rows_of_passes.append(len(output.last_hidden_state))
    )
    trainer = Trainer(lambda: TrainableAdapters(model, factors))
    handles = [(await trainer.add(start(factors, 0.1)))[0] for _ in range(4)]

    async def train(handle: int) -> None:
        batch = sequences(handle, [(3, 4)])
        await trainer.forward_backward(Task(batch, sft_objective(batch)))

    first = asyncio.create_task(train(handles[0]))
    for _ in range(3):  # until its pass has begun
        await asyncio.sleep(0)
    await asyncio.gather(first, *map(train, handles[1:]))
    trainer.close()
    assert rows_of_passes == [1, 3]


async def test_a_job_that_leaves_takes_its_batch_along(
    trainer: Trainer, factors: Factors, sequences: Sequences
) -> None:
    (stays, vector), (leaves, _) = [await trainer.add(start(factors, 0.1)) for _ in range(2)]

    async def train(handle: int) -> None:
        batch = sequences(handle, [(3, 4)])
        await trainer.forward_backward(Task(batch, sft_objective(batch)))

    going, staying = asyncio.create_task(train(leaves)), asyncio.create_task(train(stays))
    await asyncio.sleep(0)
    going.cancel()
    await asyncio.gather(going, return_exceptions=True)
    await trainer.remove(leaves)
    await staying
    assert vector.grad is not None


async def test_a_large_batch_is_run_in_portions_between_which_others_have_their_turn(
    path: Path, factors: Factors, sequences: Sequences
) -> None:
    model, rows_of_passes = load_model(path), []
    model.get_decoder().register_forward_hook(
        lambda module, inputs, output: rows_of_passes.append(len(output.last_hidden_state))
    )
    trainer = Trainer(lambda: TrainableAdapters(model, factors), PassLimits(tokens=16))
    (large, vector), (small, _) = [await trainer.add(start(factors, 0.1)) for _ in range(2)]
    many = sequences(large, [(3, 5)] * 80)
    few = sequences(small, [(3, 5)])
    ended: list[str] = []

    async def train(name: str, batch: list[TokenSequence]) -> Any:
        measured = await trainer.forward_backward(Task(batch, sft_objective(batch)))
        ended.append(name)
        return measured, len(rows_of_passes)

    first = asyncio.create_task(train("large", many))
    for _ in range(3):  # until its first portion is run
        await asyncio.sleep(0)
    (_, passes_of_few), (measured, passes) = await asyncio.gather(train("small", few), first)
    assert ended == ["small", "large"]
    assert passes_of_few < passes / 2
    assert measured.tokens == 80 * 5

    whole = TrainableAdapters(load_model(path), factors)
    handle = whole.add(start(factors, 0.1))
    again = [replace(sequence, adapter=handle) for sequence in many]
    (reference,) = forward_backward(whole, [Task(again, sft_objective(again))])
    assert measured.loss == pytest.approx(reference.loss, rel=1e-5)
    torch.testing.assert_close(vector.grad, whole.vector(handle).grad, rtol=1e-4, atol=1e-7)
    scored = await trainer.score(many)
    torch.testing.assert_close(scored.logprobs_BC, score(whole, again).logprobs_BC, rtol=1e-4, atol=1e-5)
    trainer.close()


async def test_a_portion_that_fails_leaves_what_others_had_added_up(
    path: Path, factors: Factors, sequences: Sequences
) -> None:
    trainer = Trainer(lambda: TrainableAdapters(load_model(path), factors), PassLimits(tokens=16))
    (good, vector), (bad, _) = [await trainer.add(start(factors, 0.1)) for _ in range(2)]
    many = sequences(good, [(3, 5)] * 40)
    # Its second portion cannot be run.
    failing = [*sequences(bad, [(3, 5)] * 16), TokenSequence(bad, (), (5, 6))]
    await trainer.forward_backward(Task(many, sft_objective(many)))
    alone, vector.grad = vector.grad, None

    results = await asyncio.gather(
        *(trainer.forward_backward(Task(batch, sft_objective(batch))) for batch in (many, failing)),
        return_exceptions=True,
    )

    assert isinstance(results[1], ValueError)
    torch.testing.assert_close(vector.grad, alone, rtol=1e-4, atol=1e-7)
    trainer.close()
