"""Standard errors and intervals against statistics by their definitions."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from clients.evaluation.accuracy import difference, estimate, majority_reward, wilson


def _sem(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (7, 20), (20, 20), (1190, 1319)])
def test_at_the_ends_of_wilsons_interval_the_share_is_just_as_far_away_as_95_percent_allow(
    successes: int, trials: int
) -> None:
    share, z = successes / trials, statistics.NormalDist().inv_cdf(0.975)
    low, high = wilson(share, trials)
    assert 0 <= low <= share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert abs(end - share) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), rel=1e-5)


def test_one_sample_per_row_is_a_binomial() -> None:
    rewards = [[1.0]] * 13 + [[0.0]] * 27
    found = estimate(rewards)
    assert found.mean == 13 / 40
    assert found.standard_error == pytest.approx(_sem([reward for (reward,) in rewards]))
    assert found.interval == pytest.approx(wilson(13 / 40, 40))


def test_samples_of_one_row_that_always_agree_are_worth_one() -> None:
    once = [[1.0]] * 13 + [[0.0]] * 27
    eight_times = [row * 8 for row in once]
    assert estimate(eight_times) == estimate(once)


def test_independent_samples_are_worth_more() -> None:
    source = random.Random(0)
    rewards = [[float(source.random() < 0.5) for _ in range(8)] for _ in range(200)]
    low, high = estimate(rewards).interval or (0.0, 1.0)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1600), rel=0.15)


def test_scores_between_right_and_wrong_have_no_wilson_interval() -> None:
    found = estimate([[0.25], [0.75]])
    assert (found.mean, found.interval) == (0.5, None)
    assert found.standard_error == pytest.approx(0.25)
    assert estimate([[1.0]]).standard_error is None


def test_difference_is_paired() -> None:
    source = random.Random(1)
    base = [[float(source.random() < 0.4)] for _ in range(50)]
    better = [[1.0] if number % 10 == 0 else row for number, row in enumerate(base)]
    changes = [one[0] - other[0] for one, other in zip(better, base, strict=True)]
    found = difference(better, base)
    assert found.mean == pytest.approx(statistics.fmean(changes))
    assert found.standard_error == pytest.approx(_sem(changes))


def test_majority_vote_is_of_those_who_answered_and_ties_go_to_the_earliest() -> None:
    assert majority_reward(["5", "4", "4"], [0.0, 1.0, 1.0]) == 1.0
    assert majority_reward([None, None, "5"], [0.0, 0.0, 1.0]) == 1.0
    assert majority_reward(["5", "4"], [0.0, 1.0]) == 0.0
    assert majority_reward([None], [0.0]) == 0.0
