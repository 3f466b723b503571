"""One training job, step by step, from its last checkpoint to its end.

    prepare -> evaluate -> { step -> (evaluate) -> report } ... -> succeeded | failed

What a step is, is the method's (method.py). It counts once the gateway has its report. Everything random depends on
(seed, step) alone, and a report carries all that the next step needs, so a job that was killed, paused or handed on
continues with the same bits, given the same rollouts and the same passes (other jobs' rows in a pass, or passes of
other sizes, change the last bits of sums).

A job stops where it is cancelled, or between steps once `stopping` is set. The lease is the worker's (loop.py).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import torch

from adapters.vector.adapter import Adapter
from adapters.vector.codec import encode
from adapters.vector.errors import AdapterError
from server.core.errors import ApiError
from server.training.jobs.config import RewardedConfig
from server.training.jobs.protocol import (
    BestVector,
    ClaimedJob,
    FinishRequest,
    Phase,
    ReportedCheckpoint,
    ReportRequest,
    WorkerEvent,
)
from server.training.jobs.sampled_group import SampledGroup
from server.training.worker.context import WorkerContext
from server.training.worker.diagnosis import circumstances
from server.training.worker.gateway_client import LeaseLost
from server.training.worker.held_out import HeldOut
from server.training.worker.job_data import JobData
from server.training.worker.job_state import JobState
from server.training.worker.method import GraderOutage, Method, TrainingFailed
from server.training.worker.outcome import chosen_event, failed, stalled
from server.training.worker.pass_size import DoesNotFit, DoesNotFitNow
from server.training.worker.step_report import finite, step_event
from server.training.worker.step_timer import StepTimer
from server.training.worker.tracking import Trackers

# In a row without a step, before what does not fit for the moment fails a job.
MEMORY_ATTEMPTS = 3


async def train(
    job: ClaimedJob,
    data: JobData,
    opened: AbstractAsyncContextManager[Method],
    state: JobState,
    context: WorkerContext,
    trackers: Trackers,
) -> FinishRequest:
    """Train `job` to its end, by the method that is `opened`; the request says how it ended.

    Raises LeaseLost, GatewayRefused, and for what is the worker's trouble CannotLoad and DoesNotFitNow. Errors that are
    about the job itself fail it instead.
    """
    try:
        async with opened as method:
            return await _Job(job, data, method, state, context, trackers).run()
    except (TrainingFailed, ApiError) as error:
        return failed(context.worker, error.code or "training_failed", error.message, getattr(error, "param", None))
    except AdapterError as error:
        return failed(context.worker, "training_failed", error.message)
    except DoesNotFit as error:
        # What others have of the memory, a serving engine for one, may never leave it.
        if isinstance(error, DoesNotFitNow) and job.attempts < MEMORY_ATTEMPTS:
            raise
        return failed(context.worker, "out_of_memory", str(error))
    except torch.OutOfMemoryError as error:  # beside a pass
        text = "The worker's device has no memory left; end what else uses it, or take one that has more."
        raise DoesNotFitNow(text) from error


class _Job:
    def __init__(
        self,
        job: ClaimedJob,
        data: JobData,
        method: Method,
        state: JobState,
        context: WorkerContext,
        trackers: Trackers,
    ) -> None:
        self._job, self._config, self._data, self._method = job, job.config, data, method
        self._state, self._context, self._trackers = state, context, trackers
        self._total = job.total_steps or data.total_steps
        self._last_step = None if job.checkpoint is None else job.checkpoint.step
        self._held_out = HeldOut(job, len(data.validation), self._total, method, state, self._adapter)
        # What the first report says before all else.
        self._prepared: list[WorkerEvent] = []

    async def run(self) -> FinishRequest:
        try:
            return await self._steps()
        except GraderOutage as error:
            # What never answered is a mistake in the job.
            if self._last_step is None:
                raise
            return stalled(self._context.worker, self._last_step, error.message)

    async def _steps(self) -> FinishRequest:
        try:
            if self._last_step is None:
                noticed = [WorkerEvent(level="warn", message=note) for note in self._data.notes]
                self._prepared = [*noticed, *await self._method.prepare()]
                await self._initial_evaluation()
            elif problem := self._problem():
                # The worker before was killed when it had reported the step, and had not ended the job yet.
                raise problem
            for step in range((self._last_step or 0) + 1, self._total + 1):
                if self._context.stopping.is_set():
                    return FinishRequest(worker=self._context.worker, status="released")
                await self._train_step(step)
        except TrainingFailed as error:
            # With rewards that no longer differ, what was learned until then is still a result.
            if error.code != "constant_rewards" or not await self._held_out.has_gained(self._last_step or 0):
                raise
            text = f"Ended before step {self._total}: every completion of a prompt now gets the same reward."
            return self._best_or_last(WorkerEvent(message=text))
        return self._best_or_last()

    async def _initial_evaluation(self) -> None:
        """Evaluate before the first step and report that as step 0; nothing without held-out rows."""
        if not self._held_out.rows:
            return
        began = time.monotonic()
        evaluation, told = await self._held_out.before_training()
        about = circumstances(self._job, evaluation.event_data)
        events = [*told, *self._state.diagnosis.observe(0, evaluation.metrics, about)]
        seconds: dict[Phase, float] = {"eval": time.monotonic() - began}
        await self._report(
            0, evaluation.metrics, seconds, evaluation.event_data,
            publish=False, events=events, samples=evaluation.samples,
        )  # fmt: skip

    async def _train_step(self, step: int) -> None:
        """A step of the method, evaluation, report. TrainingFailed ends the job."""
        timer = StepTimer()
        result = await self._method.step(step, timer)
        metrics, event_data = {**result.metrics, **self._distances()}, dict(result.event_data)
        evaluation, told, samples = None, list[WorkerEvent](), [*result.samples]
        if self._held_out.is_due(step):
            evaluation, told = await self._held_out.behind(step)
            metrics |= evaluation.metrics
            event_data["errors"] = _sums(result.event_data.get("errors", {}), evaluation.event_data.get("errors", {}))
            samples += evaluation.samples
            timer.lap("eval")
        is_due = evaluation is not None or step % self._config.eval_interval == 0
        self._state.watch.after_step(result.is_flat, result.metrics.get("train_reward_mean"))
        flat = {"flat_share": 1.0} if result.is_flat else {}
        found = self._state.diagnosis.observe(step, metrics | flat, circumstances(self._job, result.event_data))
        await self._report(
            step, metrics, timer.seconds, event_data,
            publish=is_due, trained_tokens=result.trained_tokens, events=[*told, *found], samples=samples,
        )  # fmt: skip
        if problem := self._problem():
            raise problem

    def _problem(self) -> TrainingFailed | None:
        """The error to end the job with behind its last step, if any."""
        if not isinstance(self._config, RewardedConfig):
            return None
        is_last, most = self._last_step == self._total, self._config.max_flat_steps
        return self._state.watch.problem(most, is_last=is_last, method=self._config.method)

    def _distances(self) -> dict[str, float]:
        """v_norm: L2 norm of the vector. v_max_abs: its largest number. v_distance: from where training started."""
        vector = self._method.vector.detach()
        numbers = {"v_norm": vector.norm().item(), "v_max_abs": vector.abs().max().item()}
        if self._job.init_vector is not None:
            start = torch.frombuffer(bytearray(self._job.init_vector), dtype=torch.float32).reshape(vector.shape)
            numbers["v_distance"] = (vector - start).norm().item()
        return numbers

    def _adapter(self) -> Adapter:
        """The vector as it would be published."""
        recipe, factors = self._config.parsed_recipe, self._context.tools.factors
        return Adapter.from_vector(self._method.vector, recipe, factors, self._config.dtype)

    def _vector_bytes(self) -> bytes:
        return encode(self._method.vector, "float32")

    async def _report(
        self,
        step: int,
        metrics: Mapping[str, float],
        seconds: Mapping[Phase, float],
        event_data: Mapping[str, Any],
        *,
        publish: bool,
        trained_tokens: int | None = None,
        events: Sequence[WorkerEvent] = (),
        samples: Sequence[SampledGroup] = (),
    ) -> None:
        metrics = finite(metrics)
        event = step_event(step, self._total, metrics, seconds, event_data)
        answer = await self._context.tools.gateway.report(
            self._job.id,
            ReportRequest(
                worker=self._context.worker,
                step=step,
                checkpoint=ReportedCheckpoint(
                    vector=self._vector_bytes(),
                    optimizer=self._method.optimizer_state(),
                    state=self._state.model_dump(mode="json"),
                    publish=publish,
                ),
                metrics=metrics,
                trained_tokens=trained_tokens or 0,
                seconds=dict(seconds),
                events=[*self._prepared, event, *events],
                samples=list(samples),
            ),
        )
        self._prepared = []
        self._last_step = step
        trained = {} if trained_tokens is None else {"trained_tokens": float(trained_tokens)}
        self._trackers.write(step, {**metrics, **trained, **{f"seconds/{phase}": s for phase, s in seconds.items()}})
        self._context.log(f"{self._job.id} ({self._job.tenant}) {event.message}, {math.fsum(seconds.values()):.1f} s")
        if answer.wanted == "lost":
            raise LeaseLost(f"another tenant has its turn, and the job goes on behind step {step} in its next one")

    def _best_or_last(self, *events: WorkerEvent) -> FinishRequest:
        best = self._state.best
        if best is None:
            return self._succeeded(
                BestVector(vector=self._vector_bytes(), step=self._last_step or self._total), *events
            )
        chosen = chosen_event(best, self._state.watch, self._config.method)
        return self._succeeded(best, *events, *([] if chosen is None else [chosen]))

    def _succeeded(self, best: BestVector | None, *events: WorkerEvent) -> FinishRequest:
        return FinishRequest(worker=self._context.worker, status="succeeded", best=best, events=list(events))


def _sums(some: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(some) + Counter(more))
