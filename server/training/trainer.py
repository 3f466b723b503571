"""The one frozen model of a worker, shared by its jobs: whatever waits for a pass goes through it together.

Design decision: there is no common beat. While a pass runs, batches of other jobs gather, and all of them share the
next one; so a job never waits for another one's sampling, only for the model itself, and may join or leave at any time.
The model and its adapters are used by one thread, which is not the event loop's.

A pass that fails is taken apart, so that a batch that cannot be trained ends its own job and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from torch import nn

from adapters.adapter import Adapter
from adapters.trainable import TrainableAdapters
from server.training.forward import PassLimits, Task, Tokens, forward_backward, score
from server.training.packing import TokenSequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting:
    task: Task[Any]
    metrics: asyncio.Future[Any]


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
        waiting = _Waiting(task, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await waiting.metrics

    async def score(self, batch: Sequence[TokenSequence]) -> Tokens:
        """What the model says of `batch`, without gradients."""
        return await self._in_thread(lambda model: score(model, batch, self._limits))

    def close(self) -> None:
        """Stop, behind the pass that may be running."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            # Whoever was cancelled while waiting has no use for it.
            together = [one for one in together if not one.metrics.done()]
            try:
                results = await self._in_thread(partial(self._pass, [one.task for one in together]))
            except Exception as error:  # of the thread itself: nobody is to wait forever
                results = [error] * len(together)
            for waiting, result in zip(together, results, strict=True):
                if waiting.metrics.done():
                    continue
                if isinstance(result, Exception):
                    waiting.metrics.set_exception(result)
                else:
                    waiting.metrics.set_result(result)

    def _pass(self, tasks: list[Task[Any]], model: TrainableAdapters) -> list[Any]:
        """Metrics or the exception of each."""
        try:
            return forward_backward(model, tasks, self._limits)
        except Exception as error:
            for task in tasks:
                for handle in {sequence.adapter for sequence in task.batch}:
                    model.vector(handle).grad = None
            if len(tasks) == 1:
                return [error]
            return [result for task in tasks for result in self._pass([task], model)]

    async def _in_thread(self, work: Callable[[TrainableAdapters], T]) -> T:
        def run() -> T:
            if self._loaded is None:
                self._loaded = self._load()
            return work(self._loaded)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)
