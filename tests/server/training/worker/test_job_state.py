from __future__ import annotations

from typing import Any

from server.training.worker.job_state import JobState
from server.training.worker.method import Evaluation

# As it is in checkpoints: a newer worker has to go on from what an older one stored.
STORED: dict[str, Any] = {
    "best": {"vector": "AACAPwAAAEA=", "step": 3, "metrics": {"valid_reward_mean": 0.5}},
    "best_value": 0.5,
    "highest": 0.5625,
    "highest_error": 0.125,
    "learning_rate": 0.01,
    "sigma": 0.05,
    "watch": {
        "start": 0.25,
        "start_error": 0.125,
        "start_is_graded": False,
        "start_by_row": [0.5, None],
        "flat_steps": 1,
        "low_evaluations": 2,
        "has_learned": True,
        "last_reward": 0.5,
        "last_evaluation": 0.0625,
    },
    "diagnosis": {
        "history": {
            "count": 1,
            "first": [{"entropy": 0.5, "step": 1.0}],
            "recent": [{"entropy": 0.5, "step": 1.0}],
            "best": [],
            "evaluations": [{"valid_reward_mean": 0.5, "step": 0.0}],
            "start_evaluation": {"valid_reward_mean": 0.5, "step": 0.0},
            "best_evaluation": None,
        },
        "told": {"constant_rewards": 2},
    },
    "row_history": "AACAPwAAAEAAAAA/",
    "sampled_with": "AAAAAAAAgD8=",
}
# Of servers that had neither an automatic rate, nor evolution, nor a diagnosis, and that published the highest value.
LATER = ("learning_rate", "sigma", "diagnosis", "row_history", "highest", "highest_error")


def test_the_stored_form_is_read_and_written_again() -> None:
    state = JobState.model_validate(STORED)
    assert state.best is not None and state.best.vector == b"\0\0\x80\x3f\0\0\0\x40"
    assert state.sampled_with == b"\0\0\0\0\0\0\x80\x3f"
    assert state.watch.low_evaluations == 2
    assert state.model_dump(mode="json") == STORED
    empty = JobState().model_dump(mode="json")
    assert list(empty) == list(STORED)
    assert empty["best"] is empty["sampled_with"] is None
    watch = {name: value for name, value in STORED["watch"].items() if name != "start_is_graded"}
    older = JobState.model_validate(
        {name: value for name, value in STORED.items() if name not in LATER} | {"watch": watch}
    )
    assert older.watch.start_is_graded
    assert older.diagnosis.told == {} and older.learning_rate is older.sigma is None


def kept(*evaluations: tuple[int, float, float], state: JobState | None = None) -> int:
    """The step that is kept of (step, value, standard error)."""
    state = state or JobState()
    for step, value, error in evaluations:
        state.keep_if_best(Evaluation({"valid_reward_mean": value}, value, error), bytes([step]), step)
    assert state.best is not None and state.best.vector == bytes([state.best.step])
    assert state.best.metrics == {"valid_reward_mean": state.best_value}
    return state.best.step


def test_without_errors_the_highest_value_is_kept_and_of_equal_ones_the_later() -> None:
    assert kept((0, -0.5, 0.0), (2, -0.5, 0.0), (4, -0.75, 0.0)) == 2


def test_what_chance_explains_does_not_bring_an_earlier_step_back() -> None:
    """Three of 64 samples before training and two of them later say nothing about which is better."""
    assert kept((0, 3 / 64, 0.026), (10, 1 / 64, 0.016), (20, 2 / 64, 0.022)) == 20


def test_a_step_is_compared_with_the_highest_so_that_small_falls_do_not_add_up() -> None:
    assert kept((0, 0.25, 0.05), (10, 0.5, 0.05), (20, 0.46, 0.05), (30, 0.42, 0.05), (40, 0.38, 0.05)) == 20


def test_of_a_checkpoint_from_before_the_rule_the_best_value_is_the_highest() -> None:
    stored = {name: value for name, value in STORED.items() if name not in LATER}
    assert kept((4, 0.4, 0.2), state=JobState.model_validate({**stored, "best": {**STORED["best"], "vector": "Aw==",
        "metrics": {"valid_reward_mean": 0.5}}})) == 3  # fmt: skip


def test_only_a_step_that_is_better_than_the_start_is_an_improvement() -> None:
    state = JobState()
    start = Evaluation({"valid_reward_mean": 0.5}, 0.5, 0.1)
    state.watch.begin(start)
    state.keep_if_best(start, b"0", 0)
    assert not state.has_improved and not state.has_kept_up
    for step, value, has_improved, has_kept_up in (
        (1, 0.45, False, False),
        (2, 0.5, False, True),
        (3, 0.55, True, True),
    ):
        state.keep_if_best(Evaluation({}, value, 0.1), b"1", step)
        assert (state.has_improved, state.has_kept_up) == (has_improved, has_kept_up)
