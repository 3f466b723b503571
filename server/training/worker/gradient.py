"""Training by gradient: { collect -> forward_backward -> Adam } is a step of reinforcement and of supervised training.

They differ in their loss: where its data come from, and what it is. Data are collected with a vector and no model, so
that may run ahead of the update.

With max_off_policy_steps = 1, step n + 1 is sampled while step n is computed, always with the vector from before step
n, also when there would have been time for a newer one; the loss corrects for that with the importance ratio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from adapters.vector.adapter import Adapter
from adapters.vector.codec import encode
from server.training.jobs.config import AUTO_NATS, GradientConfig, ReinforcementConfig
from server.training.jobs.protocol import ClaimedJob, WorkerEvent
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker.adam import Adam, AdamConfig
from server.training.worker.forward import Task
from server.training.worker.job_state import JobState
from server.training.worker.learning_rate_schedule import share_of_rate
from server.training.worker.method import Evaluation, StepResult, TrainingFailed
from server.training.worker.step_timer import StepTimer
from server.training.worker.trainer import Trainer

CollectedT = TypeVar("CollectedT")
# When no change of the vector changes what the model says.
UNMEASURED_RATE = 2e-3


@dataclass(frozen=True, slots=True)
class Batch:
    """The loss of one step, and what is known before the model has run; see StepResult.

    trained_tokens: of sequences with a gradient. is_flat: as in StepResult.
    grading_wait_s: seconds from the last completion to the last grade; None without graders.
    """

    task: Task[Any]
    trained_tokens: int
    metrics: Mapping[str, float]
    is_flat: bool | None = False
    event_data: Mapping[str, Any] = field(default_factory=dict)
    grading_wait_s: float | None = None


class Loss(Protocol[CollectedT]):
    """What the gradient is of."""

    async def collect(self, step: int, adapter: Adapter | None) -> CollectedT:
        """The data of step `step` (from 1), sampled by `adapter` (None: the base model) if it is sampled at all."""

    def observe(self, step: int, collected: CollectedT) -> None:
        """What is learned from the data of a step about which to collect next; called before any of a later step."""

    async def batch(self, collected: CollectedT, handle: int, behavior_policy: Adapter | None) -> Batch:
        """The loss on that data. `behavior_policy`: the adapter that sampled it, None when it is the one in training.

        `handle` is that of the adapter in training (TrainableAdapters).
        """

    def named_metrics(self, metrics: Any) -> dict[str, float]:
        """The metrics that a pass returned, by the names of the report."""

    async def distance_per_nat(self, start: Adapter) -> float | None:
        """How far the numbers of the vector move for a change of one nat (probe.py), around `start` (float32)."""

    def samples(self, collected: CollectedT, batch: Batch, metrics: Any) -> list[SampledGroup]:
        """Some of what was sampled, what tells most first; `metrics` are those that the pass returned."""

    async def moved(self, batch: Batch, metrics: Any) -> dict[str, float]:
        """Numbers of how far the update has moved the model, behind it, by the names of the report."""

    async def evaluate(self, handle: int, adapter: Adapter | None) -> Evaluation:
        """The adapter on the held-out rows. `handle` and `adapter` (None: the base model) are the same one."""


@asynccontextmanager
async def gradient_training(
    job: ClaimedJob,
    config: GradientConfig,
    loss: Loss[Any],
    trainer: Trainer,
    factors: str,
    state: JobState,
    total_steps: int,
) -> AsyncIterator[GradientTraining]:
    """The job's vector in training until the block ends, from its checkpoint or its start. `factors`: their digest."""
    handle, vector = await trainer.add(Adapter(config.parsed_recipe, factors, "float32", job.start_vector))
    try:
        training = GradientTraining(config, loss, trainer, factors, state, total_steps, handle, vector)
        if job.checkpoint is not None:
            training.adam.state_from_bytes(job.checkpoint.optimizer)
        try:
            yield training
        finally:
            training.stop_collecting()
    finally:
        await trainer.remove(handle)


class GradientTraining:
    """The Method (method.py) of those that follow a gradient."""

    def __init__(
        self,
        config: GradientConfig,
        loss: Loss[Any],
        trainer: Trainer,
        factors: str,
        state: JobState,
        total_steps: int,
        handle: int,
        vector: nn.Parameter,
    ) -> None:
        self._config, self._loss, self._trainer, self._factors = config, loss, trainer, factors
        self._state, self._total, self._handle, self._vector = state, total_steps, handle, vector
        self._prefetches = isinstance(config, ReinforcementConfig) and config.max_off_policy_steps > 0
        self._prefetched: asyncio.Task[Any] | None = None
        self.adam = Adam(vector, AdamConfig(max_gradient_norm=config.grad_clip, max_magnitude=config.max_abs_v))

    @property
    def vector(self) -> Tensor:
        return self._vector

    async def prepare(self) -> list[WorkerEvent]:
        if self._config.learning_rate != "auto":
            return []
        per_nat = await self._loss.distance_per_nat(self._adapter())
        unit = AUTO_NATS * per_nat if per_nat is not None else UNMEASURED_RATE
        self._state.learning_rate = rate = unit * self._config.learning_rate_multiplier
        if per_nat is None:
            text = "No vector changed a log-probability, so the learning rate could not be measured"
            return [WorkerEvent(level="warn", message=f"{text}: it is {rate:.3g}.")]
        text = (
            f"The learning rate is {rate:.3g}: moving every number of the vector by {per_nat:.3g} changes "
            f"log-probabilities by one nat, a step by {rate / per_nat:.3g} (root mean square)."
        )
        return [WorkerEvent(message=text)]

    async def step(self, step: int, timer: StepTimer) -> StepResult:
        behavior_policy, collected = await self._collect(step)
        timer.lap("sampling")
        batch = await self._loss.batch(collected, self._handle, behavior_policy)
        if batch.grading_wait_s is not None:
            timer.split("sampling", "grading", batch.grading_wait_s)
        measured = await self._trainer.forward_backward(batch.task)
        gradient_norm = self._update(step)
        moved = await self._loss.moved(batch, measured)
        timer.lap("training")
        metrics = {**batch.metrics, **self._loss.named_metrics(measured), "gradient_norm": gradient_norm, **moved}
        metrics["learning_rate"] = self._rate(step)
        samples = self._loss.samples(collected, batch, measured)
        return StepResult(batch.trained_tokens, metrics, batch.is_flat, batch.event_data, samples)

    async def evaluate(self, adapter: Adapter | None) -> Evaluation:
        return await self._loss.evaluate(self._handle, adapter)

    def optimizer_state(self) -> bytes:
        return self.adam.state_to_bytes()

    def stop_collecting(self) -> None:
        """End what is collected ahead."""
        if self._prefetched is not None:
            self._prefetched.cancel()

    async def _collect(self, step: int) -> tuple[Adapter | None, Any]:
        """(behavior policy, data of the step). The policy is None when the current vector sampled the data.

        With max_off_policy_steps, also starts collecting the next step's data with the current vector.
        """
        now = self._adapter()
        behavior_policy = self._behavior_policy() if self._prefetches and step > 1 else None
        prefetched, self._prefetched = self._prefetched, None
        collected = await (self._loss.collect(step, behavior_policy or now) if prefetched is None else prefetched)
        self._loss.observe(step, collected)
        if self._prefetches and step < self._total:
            self._prefetched = asyncio.create_task(self._loss.collect(step + 1, now))
            self._state.sampled_with = encode(self._vector, "float32")
        return behavior_policy, collected

    def _adapter(self) -> Adapter:
        return Adapter.from_vector(self._vector, self._config.parsed_recipe, self._factors, "float32")

    def _rate(self, step: int) -> float:
        """Adam's learning rate in a step."""
        share, given = share_of_rate(self._config.learning_rate_schedule, step, self._total), self._config.learning_rate
        if given != "auto":
            return share * given * self._config.learning_rate_multiplier
        return share * (self._state.learning_rate or UNMEASURED_RATE)

    def _behavior_policy(self) -> Adapter | None:
        """The adapter of an older step that samples the next one, if there is one."""
        if (data := self._state.sampled_with) is None:
            return None
        return Adapter(self._config.parsed_recipe, self._factors, "float32", data)

    def _update(self, step: int) -> float:
        """Update the vector; returns the L2 norm of its gradient. TrainingFailed when a number is not finite."""
        update = self.adam.step(self._rate(step))
        if not update.applied or not self._vector.isfinite().all():
            raise TrainingFailed(
                "not_finite",
                f"The gradient of step {step} is not a finite number (its norm is {update.gradient_norm}), so the "
                "vector cannot be moved. Use a smaller learning_rate, or max_abs_v.",
            )
        return update.gradient_norm
