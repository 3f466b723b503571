"""What is concluded from runs: no more than their number and spread allow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.learning.arms import ARMS
from benchmarks.learning.claims import BASE, CLAIMS, VARIED, Claim, Found, Runs, found
from benchmarks.learning.job import Options
from benchmarks.learning.page import LABELS
from benchmarks.learning.peft_methods import LEARNING_RATES
from benchmarks.learning.untrained import SEEDLESS, UNTRAINED
from server.training.jobs.config import ReinforcementConfig

ROWS = 64
CLAIM = Claim("", "", "grpo", "random")


def run(arm: str, seed: int, share: float, *, task: str = "", before: float = 0.3) -> dict[str, Any]:
    """Scores drawn with these probabilities of being right."""
    random = np.random.default_rng([seed, *arm.encode(), *task.encode()])

    def scores(probability: float) -> dict[str, Any]:
        drawn = (random.random((ROWS, 4)) < probability).astype(int)
        return {"sampled": {"scores": drawn.tolist()}, "greedy": {"scores": drawn[:, :1].tolist()}}

    return {"arm": arm, "seed": seed, "before": scores(before), "after": {"last": scores(share)}}


def runs(share: float, control: float, seeds: int) -> dict[str, list[dict[str, Any]]]:
    return {
        task: [
            run(arm, seed, one, task=task)
            for seed in range(seeds)
            for arm, one in (("grpo", share), ("random", control))
        ]
        for task in ("sums", "products")
    }


def only(better: str, worse: str, some: Runs) -> Found:
    """What is found of this claim alone."""
    [what] = found([Claim("", "", better, worse)], some)
    return what


@pytest.mark.parametrize(
    ("share", "control", "seeds", "verdict"),
    [
        (0.6, 0.3, 3, "yes"),
        (0.3, 0.6, 3, "the opposite"),
        (0.45, 0.45, 3, "cannot be told"),
        (0.9, 0.1, 2, "too few runs"),
    ],
)
def test_a_verdict_needs_seeds_and_a_difference_beyond_its_error(
    share: float, control: float, seeds: int, verdict: str
) -> None:
    what = only("grpo", "random", runs(share, control, seeds))
    assert what.verdict == verdict
    assert what.count == f"2, {seeds}"


def test_three_seeds_that_differ_much_tell_nothing() -> None:
    """The mean is 2.6 standard errors from 0; with three seeds it is so far, without any truth, in 12 of 100 cases."""

    def scored(share: float) -> dict[str, Any]:
        return {how: {"scores": [[share]] * ROWS} for how in ("sampled", "greedy")}

    some = [
        {"arm": arm, "seed": seed, "before": scored(0), "after": {"last": scored(share)}}
        for seed, gain in enumerate((0.2, 0.3, 0.7))
        for arm, share in (("grpo", gain), ("random", 0.0))
    ]
    what = only("grpo", "random", {"sums": some})
    assert (what.verdict, what.words) == ("cannot be told", "+0.40 ± 0.15")
    assert what.chance == pytest.approx(0.12, abs=1e-3)


def test_a_claim_among_many_needs_more_than_one_alone() -> None:
    """One in twenty without any truth would pass."""
    some = runs(0.33, 0.3, 3)
    alone = only("grpo", "random", some)
    assert alone.chance is not None
    assert 0.0025 < alone.chance < 0.05
    assert alone.verdict == "yes"
    chances = [one.chance for one in found([CLAIM] * 20, some)]
    assert chances == pytest.approx([20 * alone.chance] * 20)
    assert {one.verdict for one in found([CLAIM] * 20, some)} == {"cannot be told"}
    # Those that were not run are not asked about.
    assert found([CLAIM, *[Claim("", "", "grpo", "sft")] * 20], some)[0] == alone


def test_a_first_look_at_another_task_takes_no_verdict_back_and_is_shown() -> None:
    some = runs(0.6, 0.3, 3)
    some["letters"] = [run(arm, 0, share, task="letters") for arm, share in (("grpo", 0.0), ("random", 1.0))]
    before, after = only("grpo", "random", runs(0.6, 0.3, 3)), only("grpo", "random", some)
    assert after == replace(before, by_task=f"{before.by_task}, (letters -1.00)")
    assert before.by_task.startswith("sums +0.") and ", products +0." in before.by_task


def test_what_was_not_run_is_said_to_be_so() -> None:
    assert only("grpo", "sft", runs(0.5, 0.5, 3)).verdict == "not run"
    assert only("cma-es", BASE, runs(0.5, 0.5, 3)).verdict == "not run"


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    some = runs(0.6, 0.3, 4)
    some["sums"] = [one for one in some["sums"] if one["arm"] == "grpo" or one["seed"] != 3]
    assert only("grpo", "random", some).count == "2, 3 to 4"


@pytest.mark.parametrize("arm", SEEDLESS)
def test_what_has_no_seed_has_one_run_for_all(arm: str) -> None:
    some = {"sums": [*runs(0.6, 0.3, 3)["sums"], run(arm, 0, 0.3)]}
    assert only("grpo", arm, some).count == "1, 3"


def test_every_claim_is_of_arms_that_exist() -> None:
    names = {BASE, *ARMS, *UNTRAINED, *LEARNING_RATES}
    assert {name for claim in (*CLAIMS, *VARIED) for name in (claim.better, claim.worse)} <= names
    assert names - {BASE} <= set(LABELS)


def test_an_arm_that_varies_a_default_has_another_value() -> None:
    defaults = ReinforcementConfig().model_dump() | {"max_steps": Options().steps}
    for claim in VARIED:
        settings = ARMS[claim.worse].settings
        assert settings and all(defaults[name] != value for name, value in settings.items()), claim.worse
