"""A job's evaluations on its held-out rows: when they are made, what they say of the vector, and which one is kept.

An evaluation in which graders failed for many rows is of other rows than those before it. An event tells of it, and
nothing is made of its reward: no metric, and no choice. So it is where not one completion was graded: all have the
reward of a failure then, 0, which would be the best of all where rewards are below 0. Before training that is kept as
where the job starts, until a reward below 0 says that it cannot be known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from adapters.vector.adapter import Adapter
from adapters.vector.codec import encode
from server.training.jobs.config import RewardedConfig
from server.training.jobs.protocol import ClaimedJob, WorkerEvent
from server.training.worker.diagnosis import circumstances
from server.training.worker.held_out_gain import with_gain
from server.training.worker.history import mean_of
from server.training.worker.job_state import JobState
from server.training.worker.method import Evaluation, Method
from server.training.worker.outcome import ungraded_event, unreliable_event


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Of one job. rows: held-out ones that it has. adapter: makes the vector as it would be published."""

    job: ClaimedJob
    rows: int
    total_steps: int
    method: Method
    state: JobState
    adapter: Callable[[], Adapter]

    async def before_training(self) -> tuple[Evaluation, list[WorkerEvent]]:
        """(what the job starts from, on the held-out rows; what its owner should know)."""
        evaluation = await self.method.evaluate(None if self.job.init_vector is None else self.adapter())
        if evaluation.is_reliable and isinstance(self.job.config, RewardedConfig):
            self.state.watch.begin(evaluation)
        return self._considered(0, evaluation)

    def is_due(self, step: int) -> bool:
        """Every `eval_interval` steps and behind the last one."""
        return self.rows > 0 and (step % self.job.config.eval_interval == 0 or step == self.total_steps)

    async def behind(self, step: int) -> tuple[Evaluation, list[WorkerEvent]]:
        """(the vector on the held-out rows, compared with the start; what its owner should know)."""
        evaluation = await self.method.evaluate(self.adapter())
        if evaluation.is_reliable and isinstance(self.job.config, RewardedConfig):
            if evaluation.value < 0 and not self.state.watch.start_is_graded:
                self.state.forget_start()
            self.state.watch.after_evaluation(evaluation)
        return self._considered(step, with_gain(evaluation, self.state.watch.start_by_row))

    async def has_gained(self, step: int) -> bool:
        """Whether rewards that no longer differ behind `step` are known to be the highest, or were raised by training.

        Raised on the held-out rows, which are evaluated first where that step was not; without any, or where these did
        as well as before training, in training.
        """
        history = self.state.diagnosis.history
        if not self.state.watch.has_learned:
            return False
        evaluated = history.evaluations[-1]["step"] if history.evaluations else None
        if self.rows and evaluated != step:
            await self.behind(step)
        now, start = (mean_of(steps, "train_reward_mean") for steps in ([history.last], history.first))
        if now is None or start is None:
            return False
        highest = circumstances(self.job, {}).highest
        is_solved = highest is not None and now >= highest
        if is_solved or self.state.has_improved:
            return True
        return now > start and (self.state.has_kept_up or not self.rows)

    def _considered(self, step: int, evaluation: Evaluation) -> tuple[Evaluation, list[WorkerEvent]]:
        if not evaluation.is_reliable:
            return replace(evaluation, metrics={}), [unreliable_event(step, evaluation)]
        if not evaluation.is_graded:
            return (replace(evaluation, metrics={}), [ungraded_event(step, evaluation)]) if step else (evaluation, [])
        self.state.keep_if_best(evaluation, encode(self.method.vector, "float32"), step)
        return evaluation, []
