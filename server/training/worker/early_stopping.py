"""Ends a job that is rewarded early when its rewards never differ, or have collapsed.

The rules need no scale of rewards. A job is ended by several steps or evaluations in a row, never by one. A job in
which no step had different rewards has learned nothing and fails, unless it had fewer than LEAST_FLAT_STEPS steps. The
counters are part of a checkpoint. Warnings, which come earlier, are the diagnosis' (diagnosis.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.training.jobs.config import Method
from server.training.worker.advice import ADVICE, against_constant_rewards
from server.training.worker.method import Evaluation, TrainingFailed

LOW_EVALUATIONS = 3
# A shorter job without a single step of different rewards is not failed.
LEAST_FLAT_STEPS = 3


@dataclass(slots=True)
class EarlyStopping:
    """The counters of a job.

    start, start_error: mean reward before training and its standard error; start_is_graded: whether any completion was
    graded then. start_by_row: of each held-out row.
    flat_steps: latest steps in a row in which no group had two different rewards.
    low_evaluations: latest evaluations in a row far below the start.
    has_learned: whether rewards differed within a group in any step.
    last_reward, last_evaluation: mean rewards of the latest step and of the latest evaluation.
    """

    start: float | None = None
    start_error: float = 0.0
    start_is_graded: bool = True
    start_by_row: list[float | None] = field(default_factory=list)
    flat_steps: int = 0
    low_evaluations: int = 0
    has_learned: bool = False
    last_reward: float | None = None
    last_evaluation: float = 0.0

    def begin(self, evaluation: Evaluation) -> None:
        """Remember the evaluation before training."""
        self.start, self.start_error = evaluation.value, evaluation.error
        self.start_is_graded = evaluation.is_graded
        self.start_by_row = list(evaluation.by_row)

    def after_step(self, is_flat: bool | None, reward: float | None) -> None:
        """Count a step with mean reward `reward`. One of which nothing is known (None) counts as if it were not."""
        if is_flat is None:
            return
        self.flat_steps = self.flat_steps + 1 if is_flat else 0
        self.has_learned |= not is_flat
        self.last_reward = reward

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Count an evaluation: whether it is below the start by more than half of it and by more than three standard
        errors. Meant for rewards, which have a meaningful zero, not for losses."""
        if self.start is None or (self.start < 0 and not evaluation.is_graded):
            return
        margin = max(abs(self.start) / 2, 3 * self.start_error, 1e-6)
        self.low_evaluations = self.low_evaluations + 1 if evaluation.value < self.start - margin else 0
        self.last_evaluation = evaluation.value

    def problem(self, most: int, *, is_last: bool, method: Method = "reinforcement") -> TrainingFailed | None:
        """The error to end the job with behind what was counted, if any.

        That is after `most` flat steps in a row, at the last step when no step had different rewards, and after
        LOW_EVALUATIONS low evaluations in a row.
        """
        is_in_vain = is_last and not self.has_learned and self.flat_steps >= LEAST_FLAT_STEPS
        if self.flat_steps >= most or is_in_vain:
            return self._constant(method)
        return self._collapsed(method) if self.low_evaluations >= LOW_EVALUATIONS else None

    def _constant(self, method: Method) -> TrainingFailed:
        return TrainingFailed(
            "constant_rewards",
            f"In {self.flat_steps} steps in a row all completions of each prompt got the same "
            f"reward{_shown(self.last_reward)}, so there is nothing to learn from. Use a grader that tells them apart, "
            "rows that are neither too easy nor too hard, "
            f"{against_constant_rewards(method, self.last_reward, self.start, self.start_error)}.",
        )

    def _collapsed(self, method: Method) -> TrainingFailed:
        return TrainingFailed(
            "reward_collapse",
            f"The reward has collapsed: {self.last_evaluation:.4g} on the held-out rows, and as far below the "
            f"{self.start:.4g} before training in the {LOW_EVALUATIONS} last evaluations. Use "
            f"{ADVICE[method].smaller_steps}.",
        )


def _shown(reward: float | None) -> str:
    return "" if reward is None else f" (the mean is {reward:.4g})"
