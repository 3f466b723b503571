from __future__ import annotations

from server.training.jobs.protocol import BestVector
from server.training.worker.early_stopping import EarlyStopping
from server.training.worker.outcome import chosen_event

WATCH = EarlyStopping(start=0.25, start_error=0.03)


def best(step: int, reward: float, error: float) -> BestVector:
    return BestVector(vector=b"1", step=step, metrics={"valid_reward_mean": reward, "valid_reward_error": error})


def test_a_clear_gain_is_told_with_its_errors() -> None:
    event = chosen_event(best(20, 0.5, 0.04), WATCH)
    assert event is not None and event.level == "info"
    assert event.message == (
        "The result is that of step 20: a reward of 0.5 ± 0.04 on the held-out rows, 0.25 ± 0.03 before training."
    )


def test_a_gain_within_the_errors_is_said_to_be_that() -> None:
    event = chosen_event(best(20, 0.3, 0.04), WATCH)
    assert event is not None and "may be chance" in event.message


def test_the_start_as_result_is_a_warning_and_a_step_of_supervised_training_says_nothing() -> None:
    start = chosen_event(best(0, 0.25, 0.03), WATCH)
    assert start is not None and start.level == "warn" and "the result is the start" in start.message
    assert chosen_event(BestVector(vector=b"1", step=3, metrics={"valid_loss": 0.5}), EarlyStopping()) is None
