"""The error bars of what was learned, against numpy's analysis of variance, written in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.learning.gains import Gain, gain_of, over_tasks


def scores(means: list[float]) -> list[list[float]]:
    return [[mean] for mean in means]


def drawn(seed: int, seeds: int, rows: int) -> Any:
    """Scores (seeds, 2, rows, 4): before and after."""
    return np.random.default_rng(seed).integers(0, 2, (seeds, 2, rows, 4)).astype(float)


def test_the_error_is_that_of_two_crossed_random_effects() -> None:
    samples = drawn(1, 3, 5)
    # Effects of seeds and of rows, so that neither source vanishes beside the rest.
    samples[:, 1] += np.array([0.0, 0.3, 0.9])[:, None, None] + np.array([0, 2, 0, 1, 3])[:, None]
    gain = gain_of([(before.tolist(), after.tolist()) for before, after in samples])

    gains = samples[:, 1].mean(-1) - samples[:, 0].mean(-1)
    additive = gains.mean(1, keepdims=True) + gains.mean(0, keepdims=True) - gains.mean()
    mean_square_rest = ((gains - additive) ** 2).sum() / (2 * 4)
    mean_square_rows, mean_square_seeds = 3 * gains.mean(0).var(ddof=1), 5 * gains.mean(1).var(ddof=1)
    variance = (mean_square_rows + mean_square_seeds - mean_square_rest) / (3 * 5)
    assert mean_square_rest < min(mean_square_rows, mean_square_seeds)

    assert gain.standard_error == pytest.approx(variance**0.5)
    assert gain.mean == pytest.approx(gains.mean())
    assert gain.after - gain.before == pytest.approx(gain.mean)
    assert (gain.lowest, gain.highest) == pytest.approx((gains.mean(1).min(), gains.mean(1).max()))


def test_seeds_that_do_the_same_on_every_row_count_as_one() -> None:
    pair = scores([0.0, 0.0, 1.0, 0.0]), scores([1.0, 0.0, 1.0, 1.0])
    one, three = gain_of([pair]), gain_of([pair] * 3)
    # Gains of 1, 0, 0, 1.
    assert one.standard_error == pytest.approx((1 / 3 / 4) ** 0.5)
    assert three == one


def test_rows_that_all_gain_the_same_leave_the_error_of_the_seeds() -> None:
    pairs = [(scores([0.0, 0.5]), scores([gain, 0.5 + gain])) for gain in (0.1, 0.2, 0.3)]
    # Their standard deviation is 0.1.
    assert gain_of(pairs).standard_error == pytest.approx(0.1 / 3**0.5)


@pytest.mark.parametrize("seed", range(20))
def test_the_error_is_never_less_than_that_of_one_source(seed: int) -> None:
    samples = drawn(seed, 3, 6)
    error = gain_of([(before.tolist(), after.tolist()) for before, after in samples]).standard_error
    gains = samples[:, 1].mean(-1) - samples[:, 0].mean(-1)
    assert error is not None
    assert error >= max(gains.mean(0).std(ddof=1) / 6**0.5, gains.mean(1).std(ddof=1) / 3**0.5) - 1e-12


@pytest.mark.parametrize(("t", "degrees"), [(12.706, 1), (4.303, 2), (2.571, 5), (2.0, 60)])
def test_a_chance_is_that_of_the_tables_of_students_t(t: float, degrees: float) -> None:
    gain = Gain(0.0, t, t, 1.0, degrees, t, t)
    assert gain.chance() == pytest.approx(0.05, abs=1e-4)
    assert replace(gain, mean=-t).chance() == gain.chance()


def test_without_an_error_a_chance_is_certain_or_not_known() -> None:
    assert gain_of([(scores([0.0, 1.0]), scores([0.0, 1.0]))]).chance() == 1
    assert gain_of([(scores([0.0, 0.0]), scores([1.0, 1.0]))]).chance() == 0
    assert gain_of([(scores([0.0]), scores([1.0]))]).chance() is None


def test_of_what_gains_nothing_few_are_told_to_gain() -> None:
    """Three seeds, whose differences are most of the error: more than 12 of 100 would pass two standard errors."""
    random, told, passed, tries = np.random.default_rng(0), 0, 0, 400
    for _ in range(tries):
        gains = random.normal(0, 0.4, (3, 1)) + random.normal(0, 0.6, (1, 32)) + random.normal(0, 0.3, (3, 32))
        gain = gain_of([(scores([0.0] * 32), scores(list(of_seed))) for of_seed in gains])
        chance, error = gain.chance(), gain.standard_error
        assert chance is not None
        assert error is not None
        told, passed = told + (chance <= 0.05), passed + (abs(gain.mean) > 2 * error)
    assert told / tries < 0.08
    assert passed / tries > 0.12


def test_seeds_count_as_the_degrees_where_they_are_all_the_error_and_rows_where_those_are() -> None:
    of_seeds = gain_of([(scores([0.0, 0.5]), scores([gain, 0.5 + gain])) for gain in (0.1, 0.2, 0.4)])
    of_rows = gain_of([(scores([0.0, 0.0, 0.0, 0.0]), scores([1.0, 0.0, 1.0, 1.0]))] * 3)
    assert (of_seeds.degrees, of_rows.degrees) == (2, 3)
    # Of tasks with errors alike, as many as of all.
    assert over_tasks([of_rows] * 4).degrees == pytest.approx(12)


@pytest.mark.parametrize(("number", "shown"), [(-0.004, "+0.00"), (-0.006, "-0.01"), (0.104, "+0.10"), (0.0, "+0.00")])
def test_nothing_is_shown_without_a_minus(number: float, shown: str) -> None:
    assert gain_of([(scores([0.0]), scores([number]))]).words() == shown


def test_over_tasks_the_errors_add_as_those_of_independent_means() -> None:
    one = gain_of([(scores([0.0, 0.5, 0.0]), scores([1.0, 0.5, 0.5]))])
    other = gain_of([(scores([0.0, 0.0]), scores([0.0, 0.5]))])
    both = over_tasks([one, other])
    assert both.mean == pytest.approx((one.mean + other.mean) / 2)
    assert one.standard_error is not None
    assert other.standard_error is not None
    assert both.standard_error == pytest.approx(((one.standard_error**2 + other.standard_error**2) / 4) ** 0.5)
