"""Notices when going on with a job would only cost: its rewards never differ, or have collapsed.

Design decision: the rules are few, know no scale of rewards, and are slow to judge: a job is ended by many steps or
several evaluations in a row, never by one. But a job whose every step was flat has learned nothing from its rewards,
and has failed, unless its steps were too few to say so. What was counted is part of a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.training.worker.method import Evaluation, TrainingFailed

LOW_EVALUATIONS = 3
# Of a job that has had no others.
LEAST_FLAT_STEPS = 3
_ADVICE = (
    "Use a grader that tells them apart, rows that are neither too easy nor too hard, more completions per prompt "
    "(group_size), or a higher temperature."
)


@dataclass(slots=True)
class EarlyStopping:
    """start, start_error: the evaluation before training. flat_steps, low_evaluations: how many in a row.

    has_learned: in some step rewards differed.
    """

    start: float | None = None
    start_error: float = 0.0
    flat_steps: int = 0
    low_evaluations: int = 0
    has_learned: bool = False

    def begin(self, evaluation: Evaluation) -> None:
        """The evaluation before training."""
        self.start, self.start_error = evaluation.value, evaluation.error

    def after_step(self, is_flat: bool, reward: float | None, most: int, *, is_last: bool) -> TrainingFailed | None:
        """Why to stop, when no group of `most` steps in a row had two different rewards, or of all steps to the last.
        `reward` is the step's mean."""
        self.flat_steps = self.flat_steps + 1 if is_flat else 0
        self.has_learned |= not is_flat
        is_in_vain = is_last and not self.has_learned and self.flat_steps >= LEAST_FLAT_STEPS
        if self.flat_steps < most and not is_in_vain:
            return None
        return TrainingFailed(
            "constant_rewards",
            f"In {self.flat_steps} steps in a row all completions of each prompt got the same reward{_shown(reward)}, "
            f"so there is nothing to learn from. {_ADVICE}",
        )

    def warning(self, step: int, reward: float | None, most: int) -> str | None:
        """For the first of several flat steps."""
        if self.flat_steps != 1:
            return None
        return (
            f"Step {step}: all completions of each prompt got the same reward{_shown(reward)}, so there was nothing to "
            f"learn from; {most} such steps in a row end the job. {_ADVICE}"
        )

    def after_evaluation(self, evaluation: Evaluation) -> TrainingFailed | None:
        """Why to stop, when LOW_EVALUATIONS in a row were below the start by more than half of it and by more than
        three standard errors. Only for rewards, whose zero means something."""
        if self.start is None:
            return None
        margin = max(abs(self.start) / 2, 3 * self.start_error, 1e-6)
        self.low_evaluations = self.low_evaluations + 1 if evaluation.value < self.start - margin else 0
        if self.low_evaluations < LOW_EVALUATIONS:
            return None
        return TrainingFailed(
            "reward_collapse",
            f"The reward has collapsed: {evaluation.value:.4g} on the held-out rows, and as far below the "
            f"{self.start:.4g} before training in the {LOW_EVALUATIONS} last evaluations. Use a smaller "
            "learning_rate, max_abs_v, or kl_coef.",
        )


def _shown(reward: float | None) -> str:
    return "" if reward is None else f" (the mean is {reward:.4g})"
