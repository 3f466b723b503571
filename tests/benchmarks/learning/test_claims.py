"""What is concluded from runs: no more than their number and spread allow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.learning.arms import ARMS
from benchmarks.learning.claims import BASE, CLAIMS, Claim, found
from benchmarks.learning.page import LABELS
from benchmarks.learning.untrained import SEEDLESS, UNTRAINED

ROWS = 64


def run(arm: str, seed: int, share: float, *, task: str = "", before: float = 0.3) -> dict[str, Any]:
    """Scores drawn with these probabilities of being right."""
    random = np.random.default_rng([seed, *arm.encode(), *task.encode()])

    def scores(probability: float) -> dict[str, Any]:
        return {"sampled": {"scores": (random.random((ROWS, 4)) < probability).astype(int).tolist()}}

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
    what = found(Claim("", "", "grpo", "random"), runs(share, control, seeds))
    assert what.verdict == verdict
    assert what.count == f"2, {seeds}"


def test_a_first_look_at_another_task_takes_no_verdict_back() -> None:
    some = runs(0.6, 0.3, 3)
    some["letters"] = [run(arm, 0, 0.3, task="letters") for arm in ("grpo", "random")]
    assert found(Claim("", "", "grpo", "random"), some) == found(Claim("", "", "grpo", "random"), runs(0.6, 0.3, 3))


def test_what_was_not_run_is_said_to_be_so() -> None:
    assert found(Claim("", "", "grpo", "sft"), runs(0.5, 0.5, 3)).verdict == "not run"
    assert found(Claim("", "", "cma-es", BASE), runs(0.5, 0.5, 3)).verdict == "not run"


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    some = runs(0.6, 0.3, 4)
    some["sums"] = [one for one in some["sums"] if one["arm"] == "grpo" or one["seed"] != 3]
    assert found(Claim("", "", "grpo", "random"), some).count == "2, 3 to 4"


@pytest.mark.parametrize("arm", SEEDLESS)
def test_what_has_no_seed_has_one_run_for_all(arm: str) -> None:
    some = {"sums": [*runs(0.6, 0.3, 3)["sums"], run(arm, 0, 0.3)]}
    assert found(Claim("", "", "grpo", arm), some).count == "1, 3"


def test_every_claim_is_of_arms_that_exist() -> None:
    names = {BASE, *ARMS, *UNTRAINED}
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} <= names
    assert names - {BASE} <= set(LABELS)
