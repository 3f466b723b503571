from __future__ import annotations

from server.training.method import Evaluation
from server.training.watch import FLAT_STEPS, LOW_EVALUATIONS, Watch


def evaluation(value: float, error: float = 0.0) -> Evaluation:
    return Evaluation({}, value, error)


def test_rewards_that_never_differ_end_a_job_after_many_steps() -> None:
    watch = Watch()
    said = [watch.after_step(True, 0.25) for _ in range(FLAT_STEPS)]
    assert said[:-1] == [None] * (FLAT_STEPS - 1)
    assert said[-1] is not None
    assert said[-1].code == "constant_rewards"
    assert "0.25" in said[-1].message


def test_one_step_that_can_be_learned_from_starts_the_count_again() -> None:
    watch = Watch()
    assert all(watch.after_step(step % (FLAT_STEPS - 1) > 0, 0.0) is None for step in range(5 * FLAT_STEPS))


def test_a_reward_that_stays_far_below_the_start_ends_a_job() -> None:
    watch = Watch()
    watch.begin(evaluation(0.6, 0.02))
    said = [watch.after_evaluation(evaluation(0.1)) for _ in range(LOW_EVALUATIONS)]
    assert said[:-1] == [None] * (LOW_EVALUATIONS - 1)
    assert said[-1] is not None
    assert said[-1].code == "reward_collapse"


def test_one_bad_evaluation_between_good_ones_ends_nothing() -> None:
    watch = Watch()
    watch.begin(evaluation(0.6, 0.02))
    assert all(watch.after_evaluation(evaluation(value)) is None for value in [0.1, 0.1, 0.5] * 5)


def test_what_could_be_chance_ends_nothing() -> None:
    watch = Watch()
    watch.begin(evaluation(0.2, 0.1))
    assert all(watch.after_evaluation(evaluation(0.0)) is None for _ in range(9))


def test_it_goes_on_counting_from_a_checkpoint() -> None:
    watch = Watch()
    for _ in range(FLAT_STEPS - 1):
        watch.after_step(True, None)
    assert Watch.of_state(watch.state()).after_step(True, None) is not None
