"""Accuracies and how far they are to be trusted: standard errors, Wilson's interval, majority votes.

The unit is a row, however often it was sampled: samples of one prompt are alike. The standard error is that of the mean
over rows of each row's mean, and the interval is for the number of trials that would have this error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# The two-sided 95 % quantile of the normal distribution.
Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `rows` rows. standard_error: None with fewer than two rows. interval: Wilson's, 95 %; None where some
    reward is neither 0 nor 1."""

    mean: float
    standard_error: float | None
    interval: tuple[float, float] | None
    rows: int


def estimate(rewards_by_row: Sequence[Sequence[float]]) -> Estimate:
    """The mean reward. At least one row, each with at least one reward."""
    means = [math.fsum(rewards) / len(rewards) for rewards in rewards_by_row]
    mean, rows = math.fsum(means) / len(means), len(means)
    squares = math.fsum((one - mean) ** 2 for one in means)
    error = math.sqrt(squares / (rows - 1) / rows) if rows > 1 else None
    is_share = all(reward in (0.0, 1.0) for rewards in rewards_by_row for reward in rewards)
    if not is_share:
        return Estimate(mean, error, None, rows)
    samples = sum(map(len, rewards_by_row))
    # Of a binomial with this variance of the mean; with one sample per row that is the number of rows.
    trials = min(samples, mean * (1 - mean) * rows**2 / squares) if squares else rows
    return Estimate(mean, error, wilson(mean, trials), rows)


def difference(rewards_by_row: Sequence[Sequence[float]], base_by_row: Sequence[Sequence[float]]) -> Estimate:
    """By how much the first are better on the same rows: the mean of each row's difference, so rows that are hard for
    both cost no precision."""
    pairs = zip(rewards_by_row, base_by_row, strict=True)
    changes = [[math.fsum(one) / len(one) - math.fsum(base) / len(base)] for one, base in pairs]
    paired = estimate(changes)
    return Estimate(paired.mean, paired.standard_error, None, paired.rows)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """The 95 % score interval of a share of successes (Wilson 1927); inside 0..1, also for 0 and 1."""
    z2 = Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def majority_reward(answers: Sequence[str | None], rewards: Sequence[float]) -> float:
    """The reward of the answer that most samples gave, the earliest of equally many; None is no answer and no vote.

    0 when nobody answered.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winner = votes.most_common(1)[0][0]
    return rewards[answers.index(winner)]
