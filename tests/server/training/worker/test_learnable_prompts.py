"""Which rows are sampled, on a task made of rows with known chances of a right answer, and never trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

from server.training.worker.dataset import Sampler
from server.training.worker.job_state import JobState
from server.training.worker.learnable_prompts import LearnablePrompts

BATCH, GROUP = 16, 8
Step = tuple[tuple[int, ...], list[bool | None]]


def steps_of(chances_R: np.ndarray, count: int, seed: int = 0, restart: int | None = None) -> list[Step]:
    """The rows of every step and whether their groups of GROUP completions differed; what is drawn depends on the step
    alone. restart: the step behind which a worker goes on from the checkpoint."""
    state = JobState()
    prompts = LearnablePrompts(len(chances_R), BATCH, seed, state)
    steps: list[Step] = []
    for step in range(1, count + 1):
        rows = prompts.batch()
        right_B = np.random.default_rng([seed, step]).binomial(GROUP, chances_R[list(rows)])
        differed: list[bool | None] = [0 < right < GROUP for right in right_B.tolist()]
        prompts.observe(step, differed)
        steps.append((rows, differed))
        if step == restart:
            state = JobState.model_validate_json(state.model_dump_json())
            prompts = LearnablePrompts(len(chances_R), BATCH, seed, state)
    return steps


def share(steps: list[Step]) -> float:
    """Of groups that differed."""
    return float(np.mean([differed for _, differed in steps]))


def uniform_share(chances_R: np.ndarray) -> float:
    """What every row once per epoch comes to."""
    return float(np.mean(1 - chances_R**GROUP - (1 - chances_R) ** GROUP))


def sparse(rows: int, seed: int) -> np.ndarray:
    """Most rows are nearly impossible, some are not: right in one of twenty completions."""
    return np.random.default_rng(seed).beta(0.15, 3, rows)


def easy(rows: int, seed: int) -> np.ndarray:
    """The other way round."""
    return 1 - sparse(rows, seed)


@pytest.mark.parametrize("chances", [sparse, easy])
@pytest.mark.parametrize(("rows", "steps"), [(144, 20), (144, 60), (1000, 100)])
def test_more_groups_differ_than_by_chance_and_every_row_is_seen(
    chances: Callable[[int, int], np.ndarray], rows: int, steps: int
) -> None:
    for seed in range(3):
        chances_R = chances(rows, seed)
        chosen = steps_of(chances_R, steps, seed)
        assert share(chosen) > 1.5 * uniform_share(chances_R)
        # Once there is something to go by.
        assert share(chosen[steps // 2 :]) > 2 * uniform_share(chances_R)
        assert {row for batch, _ in chosen for row in batch} == set(range(rows))


def test_of_a_file_that_is_longer_than_the_job_mostly_new_rows_are_seen() -> None:
    chances_R = sparse(5000, 0)
    chosen = steps_of(chances_R, 100)
    assert share(chosen) > 1.05 * uniform_share(chances_R)
    assert len({row for batch, _ in chosen for row in batch}) > 0.8 * 100 * BATCH


def test_where_selection_cannot_help_it_does_no_harm() -> None:
    """All rows are equal, or all groups differ anyway."""
    equal_R = np.full(144, 0.05)
    assert share(steps_of(equal_R, 100)) == pytest.approx(uniform_share(equal_R), abs=0.03)
    chosen = steps_of(np.full(144, 0.5), 9 * 10)
    visits = np.bincount([row for batch, _ in chosen for row in batch], minlength=144)
    # Ten epochs.
    assert visits.min() >= 7 and visits.max() <= 13


def test_the_first_step_is_that_of_uniform_selection() -> None:
    assert LearnablePrompts(144, BATCH, 7, JobState()).batch() == Sampler(144, BATCH, 7).batch(0)


def gaps(steps: list[Step], row: int) -> Iterator[int]:
    """Steps between two visits of a row."""
    visits = [number for number, (batch, _) in enumerate(steps) if row in batch]
    return (later - earlier for earlier, later in pairwise(visits))


def test_a_row_that_never_differs_comes_back_again_and_again() -> None:
    chances_R = np.where(np.arange(144) < 8, 0.5, 0.0)
    chosen = steps_of(chances_R, 300)
    assert share(chosen[50:]) > 0.3  # of 16 rows 8 could
    for row in range(8, 144):
        assert max(gaps(chosen, row)) <= 9 * 6
    for row in range(8):
        assert max(gaps(chosen, row)) <= 9


def test_a_row_that_the_model_learns_to_do_and_one_that_it_learns_to_try_change_places() -> None:
    state = JobState()
    prompts = LearnablePrompts(144, BATCH, 0, state)
    visits_2R = np.zeros((2, 144))
    for step in range(1, 241):
        rows = prompts.batch()
        has_changed = step > 120
        prompts.observe(step, [(row < 14) != has_changed and row < 28 for row in rows])
        if step > 180 or 60 < step <= 120:
            visits_2R[int(has_changed), list(rows)] += 1
    before, after = visits_2R[:, :14].sum(1)
    assert before > 3 * after


@pytest.mark.parametrize("restart", [1, 7, 19])
def test_a_job_that_goes_on_from_a_checkpoint_sees_the_same_rows(restart: int) -> None:
    chances_R = sparse(144, 1)
    undisturbed = steps_of(chances_R, 40)
    assert steps_of(chances_R, 40, restart=restart) == undisturbed
    assert steps_of(chances_R, 40, seed=1) != undisturbed
    batches = [batch for batch, _ in undisturbed]
    assert all(len(set(batch)) == BATCH for batch in batches)
    assert len(set(batches)) == 40


def test_a_group_without_rewards_says_nothing_of_its_row() -> None:
    state = JobState()
    prompts = LearnablePrompts(32, BATCH, 0, state)
    first = prompts.batch()
    prompts.observe(1, [None] * BATCH)
    assert not set(prompts.batch()) & set(first)
    assert state.row_history is not None
    assert not np.frombuffer(state.row_history, "<f4").reshape(3, 32)[1:].any()


def test_fewer_rows_than_a_step_needs_come_several_times() -> None:
    prompts = LearnablePrompts(3, 7, 0, JobState())
    for step in range(1, 6):
        visits = np.bincount(prompts.batch(), minlength=3)
        assert sorted(visits) == [2, 2, 3]
        prompts.observe(step, [True, False, True, None, False, True, True])


def test_what_is_kept_of_a_row_is_small() -> None:
    state = JobState()
    LearnablePrompts(50_000, BATCH, 0, state).observe(1, [True] * BATCH)
    assert state.row_history is not None and len(state.row_history) == 12 * 50_000
