"""Notices when going on with a job would only cost: its rewards never differ, or have collapsed.

Design decision: the rules are few, know no scale of rewards, and are slow to judge: a job is ended by many steps or
several evaluations in a row, never by one. What was counted is part of a checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from server.training.method import Evaluation, TrainingFailed

FLAT_STEPS = 20
LOW_EVALUATIONS = 3


@dataclass(slots=True)
class Watch:
    """start, start_error: the evaluation before training. flat_steps, low_evaluations: how many in a row."""

    start: float | None = None
    start_error: float = 0.0
    flat_steps: int = 0
    low_evaluations: int = 0

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Watch:
        return cls(**state)

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def begin(self, evaluation: Evaluation) -> None:
        """The evaluation before training."""
        self.start, self.start_error = evaluation.value, evaluation.error

    def after_step(self, is_flat: bool, reward: float | None) -> TrainingFailed | None:
        """Why to stop, when no group of FLAT_STEPS steps in a row had two different rewards."""
        self.flat_steps = self.flat_steps + 1 if is_flat else 0
        if self.flat_steps < FLAT_STEPS:
            return None
        mean = "" if reward is None else f" (the last mean is {reward:.4g})"
        return TrainingFailed(
            "constant_rewards",
            f"In {FLAT_STEPS} steps in a row all completions of each prompt got the same reward{mean}, so there is "
            "nothing to learn from. Use a grader that tells them apart, rows that are neither too easy nor too hard, "
            "more completions per prompt (group_size), or a higher temperature.",
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
