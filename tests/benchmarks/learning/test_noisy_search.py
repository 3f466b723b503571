"""The simulation of searches on noisy rewards: what the worker's docstrings conclude from it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning.noisy_search import SEARCHES, growth_of_sigma, reached

SEEDS = range(4)


@pytest.mark.parametrize(("name", "low", "high"), [("pairs and LRA", 1, 5), ("pairs", 0.01, 0.2), ("LRA", 5, 12)])
def test_sigma_is_misjudged_by_either_alone(name: str, low: float, high: float) -> None:
    assert low < np.exp(np.mean([np.log(growth_of_sigma(name, seed)) for seed in SEEDS])) < high


def test_a_search_makes_the_vector_better_and_both_together_more_than_either_alone() -> None:
    found = {
        name: np.mean([reached(name, seed, (2000,)) for seed in SEEDS]) for name in ("pairs and LRA", "pairs", "LRA")
    }
    assert 0.4 < found["pairs"] < found["pairs and LRA"] < 0.7
    assert found["LRA"] < found["pairs and LRA"]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_is_told_at_each_number_of_completions_and_the_same_for_a_seed(name: str) -> None:
    once = reached(name, 3, (256, 512))
    assert len(once) == 2 and once == reached(name, 3, (256, 512))
