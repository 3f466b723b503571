"""The one frozen model of a worker, shared by its jobs: whatever waits for a pass goes through it together.

Design decision: there is no common beat. While a pass runs, batches of other jobs gather, and all of them share the
next one; so a job never waits for another one's sampling, only for the model itself, and may join or leave at any time.
A batch longer than TURN_PASSES passes is run in portions, between which the others have their turn: a loss is a sum
over rows, so the gradient is the same.
The model and its adapters are used by one thread, which is not the event loop's.

A pass that fails is taken apart, so that a batch that cannot be trained ends its own job and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adapters.apply.trainable import TrainableAdapters
from adapters.vector.adapter import Adapter
from server.training.worker.forward import Part, PassLimits, Task, Tokens, forward_backward, portions, score
from server.training.worker.packing import TokenSequence

T = TypeVar("T")
TURN_PASSES = 8


@dataclass(slots=True)
class _Waiting:
    """A batch, the portions of it that are still to be run, and what those before them measured."""

    task: Task[Any]
    portions: list[list[int]]
    measured: Any
    metrics: asyncio.Future[Any]

    def next_part(self) -> Task[Any]:
        return Task(self.task.batch, Part(self.task.objective, self.portions[0], self.measured))


class Trainer:
    """`load` makes the model, in the thread, when the first job needs it; `limits` bound the memory of a pass."""

    def __init__(self, load: Callable[[], TrainableAdapters], limits: PassLimits | None = None) -> None:
        self._load = load
        self._limits = limits or PassLimits()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._loaded: TrainableAdapters | None = None
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None

    async def add(self, adapter: Adapter) -> tuple[int, nn.Parameter]:
        """A copy of `adapter` in training: its handle, and its vector, which only the caller moves."""

        def add(model: TrainableAdapters) -> tuple[int, nn.Parameter]:
            handle = model.add(adapter)
            return handle, model.vector(handle)

        return await self._in_thread(add)

    async def remove(self, handle: int) -> None:
        """Take it out again, behind the pass that may be running with it."""
        await self._in_thread(lambda model: model.remove(handle))

    async def forward_backward(self, task: Task[Any]) -> Any:
        """The metrics of `task`, whose gradients are then in its vectors; in one pass with whoever else waits."""
        portions = self._portions(task.batch, task.objective.rows) or [[]]
        waiting = _Waiting(task, portions, task.objective.start, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.metrics

    async def score(self, batch: Sequence[TokenSequence]) -> Tokens:
        """What the model says of `batch`, without gradients."""
        longest = max(len(sequence.completion) for sequence in batch)
        parts = []
        for rows in self._portions(batch, range(len(batch))):
            some = [batch[row] for row in rows]
            parts.append(await self._in_thread(lambda model, some=some: score(model, some, self._limits)))  # type: ignore[misc]

        def joined(name: str) -> Tensor:
            parts_BC = [getattr(part, name) for part in parts]
            return torch.cat([nn.functional.pad(part_BC, (0, longest - part_BC.shape[1])) for part_BC in parts_BC])

        return Tokens(*(joined(field.name) for field in fields(Tokens)))

    def close(self) -> None:
        """Stop, behind the pass that may be running."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            # Whoever was cancelled while waiting has no use for it.
            together = [one for one in together if not one.metrics.done()]
            try:
                results = await self._in_thread(partial(self._pass, [one.next_part() for one in together]))
            except Exception as error:  # of the thread itself: nobody is to wait forever
                results = [error] * len(together)
            for waiting, result in zip(together, results, strict=True):
                if waiting.metrics.done():
                    continue
                if isinstance(result, Exception):
                    waiting.metrics.set_exception(result)
                    continue
                waiting.measured = result
                del waiting.portions[0]
                if waiting.portions:
                    self._waiting.append(waiting)
                else:
                    waiting.metrics.set_result(result)

    def _portions(self, batch: Sequence[TokenSequence], rows: Iterable[int]) -> list[list[int]]:
        return portions(batch, rows, TURN_PASSES * self._limits.tokens)

    def _pass(self, tasks: list[Task[Any]], model: TrainableAdapters) -> list[Any]:
        """Metrics or the exception of each."""
        handles = {sequence.adapter for task in tasks for sequence in task.batch}
        # What portions before these have added up.
        before = {handle: model.vector(handle).grad for handle in handles}
        before = {handle: None if grad is None else grad.clone() for handle, grad in before.items()}
        try:
            return forward_backward(model, tasks, self._limits)
        except Exception as error:
            for handle in handles:
                model.vector(handle).grad = before[handle]
            if len(tasks) == 1:
                return [error]
            return [result for task in tasks for result in self._pass([task], model)]

    async def _in_thread(self, work: Callable[[TrainableAdapters], T]) -> T:
        def run() -> T:
            if self._loaded is None:
                self._loaded = self._load()
            return work(self._loaded)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)
