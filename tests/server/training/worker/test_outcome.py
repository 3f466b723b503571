from __future__ import annotations

from server.training.jobs.protocol import BestVector
from server.training.worker.early_stopping import EarlyStopping
from server.training.worker.method import Evaluation
from server.training.worker.outcome import chosen_event, ungraded_event

WATCH = EarlyStopping(start=0.25, start_error=0.03, start_by_row=[0.25] * 64)


def best(step: int, reward: float, gain_error: float) -> BestVector:
    gain = {"valid_reward_gain": reward - 0.25, "valid_reward_gain_error": gain_error}
    return BestVector(vector=b"1", step=step, metrics={"valid_reward_mean": reward, "valid_reward_error": 0.04} | gain)


def test_a_clear_gain_is_told_with_its_error() -> None:
    event = chosen_event(best(20, 0.5, 0.04), WATCH, "reinforcement")
    assert event is not None and event.level == "info"
    assert event.message == (
        "The result is that of step 20: a reward of 0.5 on the held-out rows, 0.25 before training, "
        "a difference of +0.25 ± 0.04."
    )


def test_a_gain_that_the_rows_one_by_one_show_is_clear_where_the_means_overlap() -> None:
    event = chosen_event(best(20, 0.3, 0.01), WATCH, "reinforcement")
    assert event is not None and "chance" not in event.message


def test_a_gain_within_its_error_is_said_to_be_that_and_what_may_gain_more() -> None:
    event = chosen_event(best(20, 0.3, 0.04), WATCH, "evolution")
    assert event is not None and "may be chance" in event.message and "population_size" in event.message


def test_a_job_begun_before_gains_were_kept_says_only_its_rewards() -> None:
    old = BestVector(vector=b"1", step=20, metrics={"valid_reward_mean": 0.3})
    event = chosen_event(old, EarlyStopping(start=0.25, start_error=0.03), "reinforcement")
    assert event is not None and event.message.endswith("on the held-out rows, 0.25 before training.")


def test_the_start_as_result_is_a_warning_and_a_step_of_supervised_training_says_nothing() -> None:
    start = chosen_event(best(0, 0.25, 0.03), WATCH, "reinforcement")
    assert start is not None and start.level == "warn" and "the result is the start" in start.message
    loss = BestVector(vector=b"1", step=3, metrics={"valid_loss": 0.5})
    assert chosen_event(loss, EarlyStopping(), "supervised") is None


def test_of_an_evaluation_without_grades_it_is_told_whether_a_grader_or_a_limit_was_the_end_of_them() -> None:
    by_grader = ungraded_event(4, Evaluation({}, 0.0, event_data={"first_error": "no JSON"})).message
    assert "could be graded (no JSON)" in by_grader and "max_turns" not in by_grader
    by_limit = ungraded_event(4, Evaluation({}, 0.0)).message
    assert "came to a limit" in by_limit and "max_turns" in by_limit and "response_format" not in by_limit
