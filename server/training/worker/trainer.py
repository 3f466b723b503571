"""The one frozen model of a worker, shared by its jobs: batches that wait for a pass go through it together.

While a pass runs, batches of other jobs gather, and all of them share the next one; so a job waits for the model and
never for another job's sampling, and may join or leave at any time. A batch longer than TURN_PASSES passes is run in
micro-batches, between which the others have their turn; their gradients add up to that of the batch, because a loss is
a sum over rows. The model and its adapters are used by one thread, which is not the event loop's.

A pass that fails is run again batch by batch, so that a batch that cannot be trained ends its own job and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from accelerate.utils.memory import clear_device_cache
from torch import nn

from adapters.apply.trainable import TrainableAdapters
from adapters.vector.adapter import Adapter
from adapters.vector.errors import AdapterError
from server.training.worker.device_memory import ADVICE, DeviceMemory
from server.training.worker.forward import MicroBatch, Task, forward_backward, micro_batches, score
from server.training.worker.packing import TokenSequence
from server.training.worker.pass_size import (
    DEFAULT_LIMITS,
    DoesNotFit,
    FittingPasses,
    PassLimits,
    PassSizes,
    is_out_of_memory,
)
from server.training.worker.token_scores import TokenScores, joined

T = TypeVar("T")
TURN_PASSES = 8
log = structlog.get_logger(__name__)


class CannotLoad(Exception):
    """This worker cannot read the model's weights at present, or they are of a model that it cannot train. It says
    nothing of the job for which they were to be read. The message is for people."""


@dataclass(slots=True)
class _PendingBatch:
    """A batch, its micro-batches that are still to be run, and the metrics of those before them."""

    task: Task[Any]
    micro_batches: list[list[int]]
    measured: Any
    metrics: asyncio.Future[Any]

    def next_micro_batch(self) -> Task[Any]:
        return Task(self.task.batch, MicroBatch(self.task.objective, self.micro_batches[0], self.measured))


class Trainer:
    """Runs passes of the model.

    load: makes it, in the thread, when first needed. limits: the most that a pass may have. memory: of the model's
    device; passes are as large as fit into it. None: as large as the limits.
    """

    def __init__(
        self,
        load: Callable[[], TrainableAdapters],
        limits: PassLimits | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        self._load, self._memory = load, memory
        self._limits = limits or DEFAULT_LIMITS
        self._sizes: PassSizes = self._limits
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trainer")
        self._loaded: TrainableAdapters | None = None
        self._pending: list[_PendingBatch] = []
        self._runner: asyncio.Task[None] | None = None

    async def add(self, adapter: Adapter) -> tuple[int, nn.Parameter]:
        """Put a copy of `adapter` into training; returns its handle and its vector.

        The vector is float32 (groups, u) on the CPU, and only the caller moves it. Raises FactorsError or RecipeError
        when the adapter does not fit the model's factors, and CannotLoad.
        """

        def add(model: TrainableAdapters) -> tuple[int, nn.Parameter]:
            handle = model.add(adapter)
            return handle, model.vector(handle)

        return await self._in_thread(add)

    async def remove(self, handle: int) -> None:
        """Take an adapter out of training, behind a pass that may be running with it."""
        await self._in_thread(lambda model: model.remove(handle))

    async def forward_backward(self, task: Task[Any]) -> Any:
        """Add the gradients of `task` to its vectors; returns its metrics. Shares passes with other pending batches."""
        micro_batches = self._micro_batches(task.batch, task.objective.rows) or [[]]
        pending = _PendingBatch(task, micro_batches, task.objective.start, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await pending.metrics

    async def score(self, batch: Sequence[TokenSequence]) -> TokenScores:
        """The model's scores of `batch`, without gradients."""
        parts = []
        for rows in self._micro_batches(batch, range(len(batch))):
            micro_batch = [batch[row] for row in rows]
            parts.append(await self._in_thread(partial(self._score, micro_batch)))
        return joined(parts)

    async def logprobs(self, adapter: Adapter, batch: Sequence[TokenSequence]) -> list[list[float]]:
        """Log-probabilities of the completions of `batch`, whatever its adapters, under `adapter`."""
        handle, _ = await self.add(adapter)
        try:
            tokens = await self.score([replace(sequence, adapter=handle) for sequence in batch])
        finally:
            await self.remove(handle)
        return [tokens.logprobs_BC[row, : len(one.completion)].tolist() for row, one in enumerate(batch)]

    def close(self) -> None:
        """Stop the thread, behind a pass that may be running."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run(self) -> None:
        while self._pending:
            together, self._pending = self._pending, []
            # Batches whose job was cancelled meanwhile.
            together = [one for one in together if not one.metrics.done()]
            try:
                results = await self._in_thread(partial(self._pass, [one.next_micro_batch() for one in together]))
            except Exception as error:  # of the thread itself; the jobs must not wait forever
                results = [error] * len(together)
            for pending, result in zip(together, results, strict=True):
                if pending.metrics.done():
                    continue
                if isinstance(result, Exception):
                    pending.metrics.set_exception(result)
                    continue
                pending.measured = result
                del pending.micro_batches[0]
                if pending.micro_batches:
                    self._pending.append(pending)
                else:
                    pending.metrics.set_result(result)

    def _micro_batches(self, batch: Sequence[TokenSequence], rows: Iterable[int]) -> list[list[int]]:
        return micro_batches(batch, rows, TURN_PASSES * self._limits.tokens)

    def _pass(self, tasks: list[Task[Any]], model: TrainableAdapters) -> list[Any]:
        """The metrics of each task, or the exception that it raised."""
        handles = {sequence.adapter for task in tasks for sequence in task.batch}
        try:
            with model.gradients_kept_on_error(handles):  # those of the micro-batches before these
                return forward_backward(model, tasks, self._sizes)
        except Exception as error:
            if len(tasks) == 1:
                return [error]
        return [result for task in tasks for result in self._pass([task], model)]

    def _score(self, batch: Sequence[TokenSequence], model: TrainableAdapters) -> TokenScores:
        return score(model, batch, self._sizes)

    async def _in_thread(self, work: Callable[[TrainableAdapters], T]) -> T:
        def run() -> T:
            if self._loaded is None:
                self._loaded = self._read()
                if self._memory is not None:
                    self._sizes = FittingPasses(self._limits, self._loaded.model, self._memory)
            return work(self._loaded)

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _read(self) -> TrainableAdapters:
        try:
            return self._load()
        except DoesNotFit as error:
            why = str(error)
        except AdapterError as error:
            why = f"The model cannot be trained: {error.message}"
        except Exception as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                why = f"The weights of the model do not fit into the device's memory: {ADVICE}."
            else:
                log.exception("model_not_read")
                why = f"The weights of the model cannot be read ({type(error).__name__}): {error}"
        # Behind the handlers, whose error refers to what was read until then.
        clear_device_cache(garbage_collection=True)
        raise CannotLoad(why)
