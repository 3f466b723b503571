"""One training job, step by step, from its last checkpoint to its end.

    evaluate -> { collect -> forward_backward -> Adam -> (evaluate) -> report } ... -> succeeded | failed

A step counts once the gateway has its report. Everything random depends on (seed, step) alone, and a report carries all
that the next step needs, so a job that was killed, paused or handed on continues with the same bits, given the same
rollouts and the same passes (other jobs' rows in a pass, or passes of other sizes, change the last bits of sums).

With max_off_policy_steps = 1, step n + 1 is sampled while step n is computed, always with the vector from before step
n, also when there would have been time for a newer one; the loss corrects for that with the importance ratio.

A job stops where it is cancelled, or between steps once `stopping` is set. The lease is the worker's (loop.py).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adapters.vector.adapter import Adapter
from adapters.vector.codec import encode
from adapters.vector.errors import AdapterError
from server.core.errors import ApiError
from server.training.jobs.config import ReinforcementConfig
from server.training.jobs.protocol import (
    BestVector,
    ClaimedJob,
    FinishRequest,
    Phase,
    ReportedCheckpoint,
    ReportRequest,
    WorkerEvent,
)
from server.training.worker.adam import Adam, AdamConfig
from server.training.worker.context import WorkerContext
from server.training.worker.job_data import JobData
from server.training.worker.job_state import JobState
from server.training.worker.method import Batch, Evaluation, Method, TrainingFailed
from server.training.worker.outcome import failed
from server.training.worker.pass_size import DoesNotFit
from server.training.worker.step_report import finite, step_event
from server.training.worker.step_timer import StepTimer
from server.training.worker.tracking import Trackers


async def train(
    job: ClaimedJob, data: JobData, method: Method[Any], context: WorkerContext, trackers: Trackers
) -> FinishRequest:
    """Train `job` to its end; the request says how it ended.

    Raises LeaseLost and GatewayRefused. Errors that are about the job itself fail it instead.
    """
    try:
        recipe = job.config.parsed_recipe
        start = bytes(4 * recipe.num_parameters) if job.init_vector is None else job.init_vector
        handle, vector = await context.tools.trainer.add(Adapter(recipe, context.tools.factors, "float32", start))
        try:
            return await _Job(job, data, method, context, trackers, handle, vector).run()
        finally:
            await context.tools.trainer.remove(handle)
    except (TrainingFailed, ApiError) as error:
        return failed(context.worker, error.code or "training_failed", error.message, getattr(error, "param", None))
    except AdapterError as error:
        return failed(context.worker, "training_failed", error.message)
    except DoesNotFit as error:
        return failed(context.worker, "out_of_memory", str(error))
    except torch.OutOfMemoryError:  # beside a pass, while the model is read, for example
        text = "The worker's device has no memory left; end what else uses it, or take one that has more."
        return failed(context.worker, "out_of_memory", text)


class _Job:
    def __init__(
        self,
        job: ClaimedJob,
        data: JobData,
        method: Method[Any],
        context: WorkerContext,
        trackers: Trackers,
        handle: int,
        vector: nn.Parameter,
    ) -> None:
        config = job.config
        self._job, self._config, self._data, self._method = job, config, data, method
        self._context, self._trackers, self._handle, self._vector = context, trackers, handle, vector
        self._adam = Adam(vector, AdamConfig(max_gradient_norm=config.grad_clip, max_magnitude=config.max_abs_v))
        self._total = job.total_steps or data.total_steps
        self._prefetches = isinstance(config, ReinforcementConfig) and config.max_off_policy_steps > 0
        self._prefetched: asyncio.Task[Any] | None = None
        self._state = JobState()
        self._last_step: int | None = None
        if job.checkpoint is not None:
            self._last_step = job.checkpoint.step
            self._adam.state_from_bytes(job.checkpoint.optimizer)
            self._state = JobState.model_validate(job.checkpoint.state)

    async def run(self) -> FinishRequest:
        try:
            if self._last_step is None:
                await self._initial_evaluation()
            for step in range((self._last_step or 0) + 1, self._total + 1):
                if self._context.stopping.is_set():
                    return FinishRequest(worker=self._context.worker, status="released")
                await self._train_step(step)
        except TrainingFailed as error:
            # With rewards that no longer differ, what was learned until then is still a result.
            if error.code != "constant_rewards" or not self._state.has_improved:
                raise
            text = f"Ended before step {self._total}: every completion of a prompt now gets the same reward."
            return self._succeeded(self._state.best, WorkerEvent(message=text))
        finally:
            if self._prefetched is not None:
                self._prefetched.cancel()
        return self._best_or_last()

    async def _initial_evaluation(self) -> None:
        """Evaluate before the first step and report that as step 0; nothing without held-out rows."""
        if not self._data.validation:
            return
        began = time.monotonic()
        evaluation = await self._method.evaluate(
            self._handle, None if self._job.init_vector is None else self._adapter()
        )
        if isinstance(self._config, ReinforcementConfig):
            self._state.watch.begin(evaluation)
        self._keep_if_best(0, evaluation)
        await self._report(0, evaluation.metrics, {"eval": time.monotonic() - began}, publish=False)

    async def _train_step(self, step: int) -> None:
        """Sample and grade, advantages and loss, gradient, update, evaluation, report. TrainingFailed ends the job."""
        timer = StepTimer()
        behavior_policy, collected = await self._collect(step)
        timer.lap("sampling")
        batch = await self._method.batch(collected, self._handle, behavior_policy)
        if batch.grading_wait_s is not None:
            timer.split("sampling", "grading", batch.grading_wait_s)
        measured = await self._context.tools.trainer.forward_backward(batch.task)
        gradient_norm = self._update(step)
        timer.lap("training")
        metrics = {**batch.metrics, **self._method.named_metrics(measured), "gradient_norm": gradient_norm}
        metrics["v_max_abs"] = self._vector.abs().max().item()
        evaluation = await self._evaluate(step)
        if evaluation is not None:
            metrics |= evaluation.metrics
            timer.lap("eval")
        is_due = evaluation is not None or step % self._config.eval_interval == 0
        problem, events = self._check_progress(step, batch, evaluation)
        await self._report(step, metrics, timer.seconds, publish=is_due, batch=batch, events=events)
        if problem is not None:
            raise problem

    async def _collect(self, step: int) -> tuple[Adapter | None, Any]:
        """(behavior policy, data of the step). The policy is None when the current vector sampled the data.

        With max_off_policy_steps, also starts collecting the next step's data with the current vector.
        """
        now = self._adapter()
        behavior_policy = self._behavior_policy() if self._prefetches and step > 1 else None
        prefetched, self._prefetched = self._prefetched, None
        collected = await (self._method.collect(step, behavior_policy or now) if prefetched is None else prefetched)
        if self._prefetches and step < self._total:
            self._prefetched = asyncio.create_task(self._method.collect(step + 1, now))
            self._state.sampled_with = self._vector_bytes()
        return behavior_policy, collected

    def _update(self, step: int) -> float:
        """Update the vector; returns the L2 norm of its gradient. TrainingFailed when a number is not finite."""
        update = self._adam.step(self._config.learning_rate)
        if not update.applied or not self._vector.isfinite().all():
            raise TrainingFailed(
                "not_finite",
                f"The gradient of step {step} is not a finite number (its norm is {update.gradient_norm}), so the "
                "vector cannot be moved. Use a smaller learning_rate, or max_abs_v.",
            )
        return update.gradient_norm

    async def _evaluate(self, step: int) -> Evaluation | None:
        """Evaluate on the held-out rows, if it is due: every `eval_interval` steps and behind the last one."""
        if not self._data.validation or not (step % self._config.eval_interval == 0 or step == self._total):
            return None
        evaluation = await self._method.evaluate(self._handle, self._adapter())
        self._keep_if_best(step, evaluation)
        return evaluation

    def _check_progress(
        self, step: int, batch: Batch, evaluation: Evaluation | None
    ) -> tuple[TrainingFailed | None, list[WorkerEvent]]:
        """The error to end the job with behind this step, if any, and events for its owner."""
        if not isinstance(self._config, ReinforcementConfig):
            return None, []
        watch, reward, most = self._state.watch, batch.metrics.get("train_reward_mean"), self._config.max_flat_steps
        collapsed = None if evaluation is None else watch.after_evaluation(evaluation)
        problem = watch.after_step(batch.is_flat, reward, most, is_last=step == self._total) or collapsed
        warning = watch.warning(step, reward, most)
        return problem, [] if warning is None else [WorkerEvent(level="warn", message=warning)]

    def _keep_if_best(self, step: int, evaluation: Evaluation) -> None:
        self._state.keep_if_best(evaluation.value, self._vector_bytes(), step, finite(evaluation.metrics))

    def _adapter(self) -> Adapter:
        return Adapter.from_vector(self._vector, self._config.parsed_recipe, self._context.tools.factors, "float32")

    def _behavior_policy(self) -> Adapter | None:
        """The adapter of an older step that samples the next one, if there is one."""
        if (data := self._state.sampled_with) is None:
            return None
        return Adapter(self._config.parsed_recipe, self._context.tools.factors, "float32", data)

    def _vector_bytes(self) -> bytes:
        return encode(self._vector, "float32")

    async def _report(
        self,
        step: int,
        metrics: Mapping[str, float],
        seconds: Mapping[Phase, float],
        *,
        publish: bool,
        batch: Batch | None = None,
        events: Sequence[WorkerEvent] = (),
    ) -> None:
        metrics = finite(metrics)
        event = step_event(step, self._total, metrics, seconds, batch)
        await self._context.tools.gateway.report(
            self._job.id,
            ReportRequest(
                worker=self._context.worker,
                step=step,
                checkpoint=ReportedCheckpoint(
                    vector=self._vector_bytes(),
                    optimizer=self._adam.state_to_bytes(),
                    state=self._state.model_dump(mode="json"),
                    publish=publish,
                ),
                metrics=metrics,
                trained_tokens=0 if batch is None else batch.trained_tokens,
                seconds=dict(seconds),
                events=[event, *events],
            ),
        )
        self._last_step = step
        trained = {} if batch is None else {"trained_tokens": float(batch.trained_tokens)}
        self._trackers.write(step, {**metrics, **trained, **{f"seconds/{phase}": s for phase, s in seconds.items()}})
        self._context.log(f"{self._job.id} ({self._job.tenant}) {event.message}, {math.fsum(seconds.values()):.1f} s")

    def _best_or_last(self) -> FinishRequest:
        best = self._state.best
        if best is None:
            return self._succeeded(BestVector(vector=self._vector_bytes(), step=self._total))
        if best.step > 0:
            return self._succeeded(best)
        text = "No step did better on the held-out rows than the start, so the result is the start."
        return self._succeeded(best, WorkerEvent(level="warn", message=text))

    def _succeeded(self, best: BestVector | None, *events: WorkerEvent) -> FinishRequest:
        return FinishRequest(worker=self._context.worker, status="succeeded", best=best, events=list(events))
