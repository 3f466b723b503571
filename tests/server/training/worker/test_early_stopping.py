from __future__ import annotations

import json

from server.training.worker.early_stopping import LOW_EVALUATIONS, EarlyStopping
from server.training.worker.job_state import JobState
from server.training.worker.method import Evaluation, TrainingFailed

MOST = 5


def evaluation(value: float, error: float = 0.0) -> Evaluation:
    return Evaluation({}, value, error)


def after_steps(watch: EarlyStopping, flat: list[bool | None], total: int = 1000) -> list[bool]:
    """Whether each of these steps ends the job."""
    ends = []
    for step, one in enumerate(flat, 1):
        watch.after_step(one, 0.25)
        ends.append(watch.problem(MOST, is_last=step == total) is not None)
    return ends


def after_evaluations(watch: EarlyStopping, *values: float) -> list[TrainingFailed | None]:
    """What each of these evaluations ends the job with."""
    problems = []
    for value in values:
        watch.after_evaluation(evaluation(value))
        problems.append(watch.problem(MOST, is_last=False))
    return problems


def test_rewards_that_never_differ_end_a_job_after_several_steps() -> None:
    assert after_steps(EarlyStopping(), [True] * MOST) == [False] * (MOST - 1) + [True]
    error = EarlyStopping(flat_steps=MOST, last_reward=0.25).problem(MOST, is_last=False)
    assert error is not None
    assert error.code == "constant_rewards"
    assert "0.25" in error.message


def test_one_step_that_can_be_learned_from_starts_the_count_again() -> None:
    flat: list[bool | None] = [step % MOST > 0 for step in range(5 * MOST)]
    assert not any(after_steps(EarlyStopping(), flat, total=len(flat)))


def test_a_job_without_a_step_to_learn_from_ends_as_a_failure_at_its_last_step() -> None:
    assert after_steps(EarlyStopping(), [True, True, True], total=3) == [False, False, True]
    assert not any(after_steps(EarlyStopping(), [False, True, True, True], total=4))
    assert not any(after_steps(EarlyStopping(), [True, True], total=2))


def test_steps_in_an_outage_are_not_counted() -> None:
    watch = EarlyStopping()
    assert after_steps(watch, [True] * (MOST - 1) + [None] * MOST + [True]) == [False] * (2 * MOST - 1) + [True]
    assert not watch.has_learned


def test_a_reward_that_stays_far_below_the_start_ends_a_job() -> None:
    watch = EarlyStopping()
    watch.begin(evaluation(0.6, 0.02))
    said = after_evaluations(watch, *[0.1] * LOW_EVALUATIONS)
    assert said[:-1] == [None] * (LOW_EVALUATIONS - 1)
    assert said[-1] is not None
    assert said[-1].code == "reward_collapse"
    assert "0.1 on the held-out rows" in said[-1].message


UNGRADED = Evaluation({}, 0.0, is_graded=False)


def test_evaluations_of_which_nothing_was_graded_are_as_bad_as_0_and_not_good_below_it() -> None:
    watch = EarlyStopping()
    watch.begin(evaluation(0.6))
    for _ in range(LOW_EVALUATIONS):
        watch.after_evaluation(UNGRADED)
    assert watch.problem(MOST, is_last=False) is not None
    watch = EarlyStopping()
    watch.begin(evaluation(-0.6))
    after_evaluations(watch, *[-1.0] * (LOW_EVALUATIONS - 1))
    watch.after_evaluation(UNGRADED)
    assert watch.low_evaluations == LOW_EVALUATIONS - 1


def test_one_bad_evaluation_between_good_ones_ends_nothing() -> None:
    watch = EarlyStopping()
    watch.begin(evaluation(0.6, 0.02))
    assert not any(after_evaluations(watch, *[0.1, 0.1, 0.5] * 5))


def test_what_could_be_chance_ends_nothing() -> None:
    watch = EarlyStopping()
    watch.begin(evaluation(0.2, 0.1))
    assert not any(after_evaluations(watch, *[0.0] * 9))


def test_a_checkpoint_has_what_was_counted() -> None:
    watch = EarlyStopping()
    after_steps(watch, [True] * MOST)
    state = json.loads(json.dumps(JobState(watch=watch).model_dump(mode="json")))
    assert JobState.model_validate(state).watch.problem(MOST, is_last=False) is not None
