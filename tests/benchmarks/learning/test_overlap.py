"""The simulation of engine and trainer, where its result is known."""

from __future__ import annotations

import pytest

from benchmarks.learning.overlap import ENGINE, UPDATE_S, engine_speed, rows


def test_no_schedule_is_faster_than_the_trainer_and_none_ahead_is_slower_than_in_turn() -> None:
    for _, _, turn, ahead in rows():
        assert ahead <= 60 / UPDATE_S * 1.0001
        assert ahead >= turn * 0.99  # the last step that is sampled ahead is not trained


def test_jobs_of_their_own_fill_what_one_step_ahead_fills() -> None:
    by_jobs = {jobs: ahead / turn for cards, jobs, turn, ahead in rows() if cards == 2}
    assert by_jobs[4] < by_jobs[1]


def test_the_engine_has_the_measured_speeds_and_straight_lines_between() -> None:
    assert [engine_speed(count) for count, _ in ENGINE] == pytest.approx([speed for _, speed in ENGINE])
    assert engine_speed(20) == pytest.approx((1350 + 5035) / 2)
    assert engine_speed(1000) == ENGINE[-1][1]
