from __future__ import annotations

import numpy as np
import pytest

from server.training.worker.held_out_gain import gain_of, in_words, with_gain
from server.training.worker.method import Evaluation


def evaluation(*by_row: float | None) -> Evaluation:
    return Evaluation({"valid_reward_mean": 0.5}, 0.5, 0.1, by_row)


def test_the_error_takes_off_what_rows_have_in_common() -> None:
    before, now = [0.0, 1.0, 0.25, 0.5, 0.0], [0.25, 1.0, 0.75, 0.5, 0.5]
    metrics = with_gain(evaluation(*now), before).metrics
    gain = gain_of(metrics, len(before))
    assert gain is not None and gain.mean == pytest.approx(0.25)
    covariance = np.cov(now, before)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert gain.error == pytest.approx(np.sqrt(variance / len(now)))
    assert gain.freedom == 4
    assert in_words(metrics) == "+0.25 ± 0.1"
    assert metrics["valid_reward_mean"] == 0.5


def test_a_row_without_a_reward_in_either_counts_in_neither() -> None:
    metrics = with_gain(evaluation(1.0, None, 1.0, 0.5), [0.0, 0.0, None, 0.0]).metrics
    assert metrics["valid_reward_gain"] == 0.75


@pytest.mark.parametrize("start", [[], [None, 0.0, None]])
def test_of_fewer_than_two_rows_nothing_is_said(start: list[float | None]) -> None:
    metrics = with_gain(evaluation(1.0, 1.0, 1.0), start).metrics
    assert gain_of(metrics, 3) is None and in_words(metrics) == ""
