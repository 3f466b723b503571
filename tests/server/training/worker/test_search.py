"""Searches against functions whose optimum is known, against closed forms, and against the package's own CMA-ES."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from cmaes import CMA

from adapters.vector.errors import CheckpointError
from server.training.worker.cma_es import CmaEs
from server.training.worker.openai_es import OpenAiEs
from server.training.worker.search import Array, Search, fitness_of, rank_correlation, ranks

NUMBERS, POPULATION = 13, 16
TARGET_N = np.linspace(-0.3, 0.3, NUMBERS)


def new_search(algorithm: str, sigma: float = 0.05, population: int = POPULATION, bound: float | None = None) -> Search:
    if algorithm == "cma_es":
        return CmaEs(np.zeros(NUMBERS), sigma, population, bound)
    return OpenAiEs(np.zeros(NUMBERS), sigma, population, sigma / 8, bound)


def sphere(candidates_PN: Array) -> Array:
    """Highest, and zero, at TARGET_N."""
    values_P: Array = -((candidates_PN - TARGET_N) ** 2).sum(1)
    return values_P


def run(search: Search, fitness: Callable[[Array], Array], generations: int, start: int = 0) -> None:
    for generation in range(start, start + generations):
        candidates_PN = search.ask(generation)
        search.tell(candidates_PN, fitness(candidates_PN))


@pytest.mark.parametrize(("algorithm", "generations", "left"), [("cma_es", 250, 1e-4), ("openai_es", 400, 0.01)])
def test_the_optimum_of_a_sphere_is_found(algorithm: str, generations: int, left: float) -> None:
    search = new_search(algorithm)
    run(search, sphere, generations)
    assert sphere(search.mean_N[None])[0] > left * sphere(np.zeros((1, NUMBERS)))[0]


@pytest.mark.parametrize("algorithm", ["cma_es", "openai_es"])
def test_a_noisy_sphere_is_climbed_although_the_noise_is_larger_than_what_candidates_differ_by(algorithm: str) -> None:
    left = []
    for seed in range(5):
        search, noise = new_search(algorithm), np.random.default_rng(seed)
        # At the start a step of sigma changes the value by about 0.07.
        run(search, lambda x, noise=noise: sphere(x) + 0.1 * noise.standard_normal(len(x)), 150)  # type: ignore[misc]
        left.append(sphere(search.mean_N[None])[0] / sphere(np.zeros((1, NUMBERS)))[0])
    assert np.mean(left) < 0.25


def test_sigma_neither_grows_nor_shrinks_far_where_fitness_says_nothing() -> None:
    grown = []
    for seed in range(8):
        search, noise = new_search("cma_es", sigma=1.0), np.random.default_rng(seed)
        run(search, lambda x, noise=noise: noise.random(len(x)), 100)  # type: ignore[misc]
        grown.append(math.log(search.sigma))
    assert abs(np.mean(grown)) < math.log(3)


def test_cma_es_is_the_packages_told_of_pairs() -> None:
    ours, theirs = new_search("cma_es"), CMA(mean=np.zeros(NUMBERS), sigma=0.05, population_size=16, lr_adapt=True)
    for generation in range(40):
        candidates_PN = ours.ask(generation)
        np.testing.assert_allclose((candidates_PN[:8] + candidates_PN[8:]) / 2, [theirs.mean] * 8, atol=1e-12)
        fitness_P = sphere(candidates_PN)
        ours.tell(candidates_PN, fitness_P)
        theirs.tell([(x, -f) for x, f in zip(candidates_PN, fitness_P, strict=True)])
        np.testing.assert_array_equal(ours.mean_N, theirs.mean)
    # And candidates are drawn from its distribution.
    drawn = np.concatenate([ours.ask(seed) for seed in range(2000)]), np.array([theirs.ask() for _ in range(32_000)])
    one_NN, other_NN = (np.cov(candidates_PN.T) for candidates_PN in drawn)
    np.testing.assert_allclose(one_NN, other_NN, atol=0.05 * np.abs(other_NN).max())


def test_the_estimated_gradient_is_the_sum_over_pairs() -> None:
    search = OpenAiEs(np.zeros(2), 0.5, 4, 0.1)
    pairs_HN = np.array([[0.5, 0.0], [0.0, 1.0]])
    candidates_PN = np.concatenate([pairs_HN, -pairs_HN])
    # Ranks 3, 2, 0, 1 of 0 .. 3 are 1/2, 1/6, -1/2, -1/6; the noise is (1, 0) and (0, 2).
    gradient_N = search.gradient(candidates_PN, np.array([9.0, 4.0, -7.0, 1.0]))
    np.testing.assert_allclose(gradient_N, [1 / (4 * 0.5), 2 / 3 / (4 * 0.5)])


def test_the_estimated_gradient_of_a_linear_function_has_the_direction_and_length_of_the_closed_form() -> None:
    sigma, population = 0.3, 200_000
    search = OpenAiEs(np.zeros(NUMBERS), sigma, population, 0.1)
    slope_N = np.arange(1.0, NUMBERS + 1)
    candidates_PN = search.ask(0)
    gradient_N = search.gradient(candidates_PN, candidates_PN @ slope_N)
    # With z ~ N(0, 1) along the slope, ranks tend to its distribution function F: E[z (F(z) - 1/2)] = 1 / (2 sqrt(pi)).
    expected_N = slope_N / np.linalg.norm(slope_N) / (2 * math.sqrt(math.pi) * sigma)
    np.testing.assert_allclose(gradient_N, expected_N, atol=0.01)


@pytest.mark.parametrize("algorithm", ["cma_es", "openai_es"])
def test_a_search_goes_on_from_its_state_with_the_same_bits(algorithm: str) -> None:
    undisturbed, first, second = (new_search(algorithm) for _ in range(3))
    run(undisturbed, sphere, 30)
    run(first, sphere, 17)
    state = first.state_to_bytes()
    first.ask(1)  # of a generation that is then not told of
    assert first.state_to_bytes() == state
    second.state_from_bytes(state)
    run(second, sphere, 13, start=17)
    assert second.state_to_bytes() == undisturbed.state_to_bytes()
    np.testing.assert_array_equal(second.ask(99), undisturbed.ask(99))
    with pytest.raises(CheckpointError):
        new_search(algorithm).state_from_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError):
        CmaEs(np.zeros(NUMBERS + 1), 0.05, POPULATION).state_from_bytes(new_search("cma_es").state_to_bytes())


@pytest.mark.parametrize("algorithm", ["cma_es", "openai_es"])
def test_the_optimum_within_a_bound_is_found(algorithm: str) -> None:
    search = new_search(algorithm, bound=0.1)
    run(search, lambda candidates_PN: sphere(candidates_PN.clip(-0.1, 0.1)), 150)
    assert np.abs(search.mean_N).max() <= 0.1 + 1e-8
    best, start = sphere(TARGET_N.clip(-0.1, 0.1)[None])[0], sphere(np.zeros((1, NUMBERS)))[0]
    assert sphere(search.mean_N[None])[0] > best + 0.1 * (start - best)
    assert search.sigma < 0.2


def test_a_reward_that_is_missing_makes_nobody_better_or_worse() -> None:
    # The second prompt is the easy one, and who did not get it must not look worse for that.
    rewards_PB = np.array([[0.4, 1.0], [0.5, np.nan], [0.3, 0.9], [np.nan, np.nan]])
    np.testing.assert_allclose(fitness_of(rewards_PB), [0.025, 0.1, -0.075, 0.0])
    whole_PB = np.random.default_rng(0).random((6, 9))
    np.testing.assert_allclose(fitness_of(whole_PB), whole_PB.mean(1) - whole_PB.mean())


def test_ranks_of_equals_are_shared_and_their_correlation_is_spearmans() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]
    # The example of scipy.stats.spearmanr's documentation.
    assert rank_correlation(np.arange(5.0), np.array([5.0, 6, 7, 8, 7])) == pytest.approx(0.82078268)
    assert rank_correlation(np.zeros(4), np.arange(4.0)) == 0
