"""What a diagnosis looks at: numbers of a job's first steps, of the last and of the best, and what else is known.

The numbers are part of a checkpoint, so they are of a few steps and not of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.training.jobs.config import Method

# Steps compared with each other, and kept.
WINDOW, KEPT = 3, 5
Numbers = dict[str, float]
_REWARD = "train_reward_mean"
_NAMES = frozenset(
    {
        "train_reward_mean",
        "train_reward_error",
        "train_loss",
        "train_loss_error",
        "valid_reward_mean",
        "valid_reward_error",
        "valid_loss",
        "reward_std",
        "flat_share",
        "completion_tokens_mean",
        "truncated_share",
        "grader_error_share",
        "no_answer_share",
        "entropy",
        "step_kl",
        "learning_rate",
        "logprob_gap_mean",
        "logprob_gap_max",
    }
)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a step besides its numbers.

    job: its id, and its `method`. lowest, highest: reward that the grader gives; highest is None where it is not known.
    prompts: in a step; rows, of supervised training. selects_prompts: which of them depends on their rewards, so the
    reward of training says nothing by itself of how good the model is.
    sigma_is_measured: by the server, and not multiplied by more than 1. evaluates_greedily: of each held-out row there
    is one answer, at temperature 0.
    max_flat_steps: so many steps without different rewards end the job; None: they do not.
    errors: of grading and sampling, counts by kind; `first_error` is the message of the first. grader_error_share: of
    the completions of the evaluation before training, None behind a step, whose metrics have it.
    no_answer: of a completion in which the grader found no answer, the forms that it looked for, and its end.
    """

    job: str = ""
    method: Method = "reinforcement"
    lowest: float = 0.0
    highest: float | None = 1.0
    prompts: int = 1
    max_flat_steps: int | None = None
    max_completion_tokens: int | None = None
    samples_ahead: bool = False
    selects_prompts: bool = False
    sigma_is_measured: bool = False
    evaluates_greedily: bool = False
    errors: Mapping[str, int] = field(default_factory=dict)
    first_error: str | None = None
    no_answer: tuple[Sequence[str], str] | None = None
    grader_error_share: float | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """A mean and its standard error. freedom: degrees of freedom of the error; 0: it says nothing."""

    mean: float
    error: float
    freedom: float

    def is_above(self, other: Level, errors: float) -> bool:
        """Whether it is above `other` by more than so many standard errors of the difference.

        By more where these are known of few prompts, about as Student's t asks for.
        """
        freedom = min(self.freedom, other.freedom)
        if freedom <= 0:
            return False
        return self.mean - other.mean > errors * (1 + 3 / freedom) * math.hypot(self.error, other.error)


@dataclass(slots=True)
class History:
    """Every entry has its `step`. first: of the first WINDOW steps. recent: of the last KEPT, the newest last.

    best: the WINDOW steps in a row with the highest mean reward. evaluations: the last two. start_evaluation: that
    before training. best_evaluation: the one with the highest reward or the lowest loss.
    """

    count: int = 0
    first: list[Numbers] = field(default_factory=list)
    recent: list[Numbers] = field(default_factory=list)
    best: list[Numbers] = field(default_factory=list)
    evaluations: list[Numbers] = field(default_factory=list)
    start_evaluation: Numbers | None = None
    best_evaluation: Numbers | None = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the numbers of a step, 0 being the evaluation before training."""
        numbers = {name: value for name, value in metrics.items() if name in _NAMES and math.isfinite(value)}
        numbers["step"] = float(step)
        if "valid_reward_mean" in numbers or "valid_loss" in numbers:
            self._add_evaluation(numbers)
        if step == 0:
            return
        self.count += 1
        if len(self.first) < WINDOW:
            self.first.append(numbers)
        self.recent = [*self.recent, numbers][-KEPT:]
        latest = self.recent[-WINDOW:]
        mean, best = mean_of(latest, _REWARD), mean_of(self.best, _REWARD)
        if len(latest) == WINDOW and mean is not None and (best is None or mean > best):
            self.best = latest

    def forget_start(self) -> None:
        """As if nothing had been evaluated before training."""
        self.start_evaluation = None
        self.evaluations = [one for one in self.evaluations if one["step"]]
        if self.best_evaluation is not None and not self.best_evaluation["step"]:
            self.best_evaluation = None

    @property
    def last(self) -> Numbers:
        """The newest step's."""
        return self.recent[-1]

    @property
    def reward_means(self) -> list[float]:
        """Every mean reward that is known, of training and of held-out rows."""
        kept = (*self.first, *self.recent, *self.evaluations, self.start_evaluation or {})
        return [numbers[name] for numbers in kept for name in (_REWARD, "valid_reward_mean") if name in numbers]

    @property
    def latest(self) -> list[Numbers]:
        """The last steps, at most WINDOW."""
        return self.recent[-WINDOW:]

    @property
    def since_start(self) -> list[Numbers]:
        """The last steps that are compared with those of `start`; none of the first step."""
        return self.recent[-min(WINDOW, self.count - 1) :] if self.count > 1 else []

    @property
    def start(self) -> list[Numbers]:
        """The first steps, without any of `since_start`."""
        return self.first[: max(1, self.count - WINDOW)]

    def reward(self, steps: Sequence[Numbers], prompts: int) -> Level | None:
        """The mean reward of training over some steps of so many prompts."""
        return self._level(steps, prompts, _REWARD, "train_reward_error")

    def loss(self, steps: Sequence[Numbers], rows: int) -> Level | None:
        """The mean loss of training over some steps of so many rows."""
        return self._level(steps, rows, "train_loss", "train_loss_error")

    def _level(self, steps: Sequence[Numbers], prompts: int, name: str, error: str) -> Level | None:
        """The mean of a number over some steps, and its error.

        The error is the larger one of what these steps had and what all have had, for of few prompts it is itself
        uncertain.
        """
        mean, kept = mean_of(steps, name), {step["step"]: step for step in (*self.first, *self.recent)}
        errors = [step[error] for step in kept.values() if error in step]
        if mean is None or not errors:
            return None
        own = math.hypot(*(step.get(error, 0.0) for step in steps)) / len(steps)
        pooled = math.hypot(*errors) / math.sqrt(len(errors) * len(steps))
        return Level(mean, max(own, pooled), len(errors) * (prompts - 1))

    def _add_evaluation(self, numbers: Numbers) -> None:
        if numbers["step"] == 0:
            self.start_evaluation = numbers
        self.evaluations = [*self.evaluations, numbers][-2:]
        if self.best_evaluation is None or _goodness(numbers) > _goodness(self.best_evaluation):
            self.best_evaluation = numbers


def mean_of(steps: Sequence[Numbers], name: str) -> float | None:
    """The mean of a number over the steps that have it; None when none has."""
    values = [step[name] for step in steps if name in step]
    return math.fsum(values) / len(values) if values else None


def held_out_reward(evaluation: Numbers | None) -> Level | None:
    """The reward of an evaluation."""
    if evaluation is None or "valid_reward_mean" not in evaluation:
        return None
    return Level(evaluation["valid_reward_mean"], evaluation.get("valid_reward_error", 0.0), math.inf)


def _goodness(evaluation: Numbers) -> float:
    return evaluation["valid_reward_mean"] if "valid_reward_mean" in evaluation else -evaluation["valid_loss"]
