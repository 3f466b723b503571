from __future__ import annotations

from typing import Any

from server.training.worker.job_state import JobState

# As it is in checkpoints: a newer worker has to go on from what an older one stored.
STORED: dict[str, Any] = {
    "best": {"vector": "AACAPwAAAEA=", "step": 3, "metrics": {"valid_reward_mean": 0.5}},
    "best_value": 0.5,
    "learning_rate": 0.01,
    "sigma": 0.05,
    "watch": {"start": 0.25, "start_error": 0.125, "flat_steps": 1, "low_evaluations": 2, "has_learned": True},
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
    "sampled_with": "AAAAAAAAgD8=",
}
# Of servers that had neither an automatic rate, nor evolution, nor a diagnosis.
LATER = ("learning_rate", "sigma", "diagnosis")


def test_the_stored_form_is_read_and_written_again() -> None:
    state = JobState.model_validate(STORED)
    assert state.best is not None and state.best.vector == b"\0\0\x80\x3f\0\0\0\x40"
    assert state.sampled_with == b"\0\0\0\0\0\0\x80\x3f"
    assert state.watch.low_evaluations == 2
    assert state.model_dump(mode="json") == STORED
    empty = JobState().model_dump(mode="json")
    assert list(empty) == list(STORED)
    assert empty["best"] is empty["sampled_with"] is None
    older = JobState.model_validate({name: value for name, value in STORED.items() if name not in LATER})
    assert older.diagnosis.told == {} and older.learning_rate is older.sigma is None


def test_of_equal_values_the_later_vector_is_kept() -> None:
    state = JobState()
    for step, value in ((0, 0.5), (2, 0.5), (4, 0.25)):
        state.keep_if_best(value, bytes([step]), step, {})
    assert state.best is not None and state.best.step == 2
    assert state.has_improved
