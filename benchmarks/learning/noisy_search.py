"""Searches on rewards that are noisy: a simulation of what cma_es.py and openai_es.py of the worker say of theirs.

    python -m benchmarks.learning.noisy_search [--seeds 20]

A vector x of 13 numbers answers a prompt rightly with probability sigmoid(b + g.x - x.x / 2): b and g differ between
prompts, around a mean g of length 2. A generation tries 16 candidates once on each of 8 prompts that are drawn for it,
so a candidate's reward is off by more than what candidates differ by. What is shown is the probability of the mean
vector, over all prompts, by completions; and, in the second table, sigma after 100 generations of rewards that say
nothing, relative to the first. Means over seeds, with their standard errors; of sigma geometric, with lowest and
highest.

    pairs and LRA    ours (server/training/worker/cma_es.py)
    pairs, LRA       only one of the two
    neither          CMA-ES of the package
    more prompts     pairs, without LRA: half again as many prompts where the ranks of two halves of them agree less
                     than the limit, and less of them where they agree more, as UH-CMA-ES evaluates candidates again
    OpenAI-ES        with a rate of a half, and of an eighth of sigma
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from cmaes import CMA
from rich.console import Console
from rich.table import Table

from server.training.worker.cma_es import CmaEs
from server.training.worker.openai_es import OpenAiEs
from server.training.worker.search import Array, Search, fitness_of, rank_correlation

NUMBERS, POPULATION, PROMPTS, SIGMA = 13, 16, 8, 0.25
COMPLETIONS = (2000, 4000, 8000, 16000)
NEUTRAL_GENERATIONS = 100
AGREEMENT, MOST_PROMPTS = 0.2, 64


class Pairs(CmaEs):
    """Without LRA."""

    lr_adapt = False

    def __init__(self, mean_N: Array, sigma: float, population_size: int) -> None:
        super().__init__(mean_N, sigma, population_size)
        self._cma = CMA(mean=mean_N, sigma=sigma, population_size=population_size, lr_adapt=self.lr_adapt)


class Alone(Pairs):
    """Without pairs: candidates as the package draws them."""

    def ask(self, seed: int) -> Array:
        self._cma.reseed_rng(seed)
        return np.array([self._cma.ask() for _ in range(self._cma.population_size)])


class Lra(Alone):
    lr_adapt = True


class Task:
    """Rewards as the module says, of 256 prompts."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        slope_N = self.draw.standard_normal(NUMBERS)
        slope_N *= 2 / np.linalg.norm(slope_N)
        self.slopes_BN = slope_N + 0.3 * self.draw.standard_normal((256, NUMBERS))
        self.offsets_B = -1 + self.draw.standard_normal(256)

    def probabilities(self, vectors_PN: Array) -> Array:
        """(P, B) of right answers."""
        bent_P1 = (vectors_PN**2).sum(1, keepdims=True) / 2
        return np.asarray(1 / (1 + np.exp(-(self.offsets_B + vectors_PN @ self.slopes_BN.T - bent_P1))))

    def rewards(self, vectors_PN: Array, prompts: int) -> Array:
        """Of one answer of each vector to each of so many prompts (P, prompts)."""
        chosen = self.draw.choice(len(self.offsets_B), prompts, replace=False)
        probabilities_PB = self.probabilities(vectors_PN)[:, chosen]
        return (self.draw.random(probabilities_PB.shape) < probabilities_PB).astype(np.float64)

    def mean_reward(self, search: Search) -> float:
        return float(self.probabilities(search.mean_N[None]).mean())


Start = Callable[[], Search]
ZERO_N = np.zeros(NUMBERS)
SEARCHES: Mapping[str, Start] = {
    "pairs and LRA": lambda: CmaEs(ZERO_N, SIGMA, POPULATION),
    "pairs": lambda: Pairs(ZERO_N, SIGMA, POPULATION),
    "LRA": lambda: Lra(ZERO_N, SIGMA, POPULATION),
    "neither": lambda: Alone(ZERO_N, SIGMA, POPULATION),
    "more prompts": lambda: Pairs(ZERO_N, SIGMA, POPULATION),
    "OpenAI-ES, half": lambda: OpenAiEs(ZERO_N, SIGMA, POPULATION, SIGMA / 2),
    "OpenAI-ES, eighth": lambda: OpenAiEs(ZERO_N, SIGMA, POPULATION, SIGMA / 8),
}


def reached(name: str, seed: int, completions: Sequence[int] = COMPLETIONS) -> list[float]:
    """The mean reward after each number of completions."""
    task, search, prompts = Task(seed), SEARCHES[name](), PROMPTS
    found: list[float] = []
    used, generation = 0, 0
    while len(found) < len(completions):
        candidates_PN = search.ask(1000 * seed + generation)
        rewards_PB = task.rewards(candidates_PN, prompts)
        search.tell(candidates_PN, fitness_of(rewards_PB))
        generation, used = generation + 1, used + rewards_PB.size
        if name == "more prompts":
            halves = np.array_split(rewards_PB, 2, axis=1)
            agree = rank_correlation(*map(fitness_of, halves)) >= AGREEMENT
            prompts = max(PROMPTS, round(prompts / 1.5)) if agree else min(MOST_PROMPTS, round(prompts * 1.5))
        if used >= completions[len(found)]:
            found.append(task.mean_reward(search))
    return found


def growth_of_sigma(name: str, seed: int, generations: int = NEUTRAL_GENERATIONS) -> float:
    """How many times the first sigma, where rewards say nothing."""
    search, draw = SEARCHES[name](), np.random.default_rng(seed)
    for generation in range(generations):
        search.tell(search.ask(1000 * seed + generation), draw.random(POPULATION))
    return search.sigma / SIGMA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    seeds = range(args.seeds)
    start = np.mean([Task(seed).mean_reward(SEARCHES["neither"]()) for seed in seeds])
    table = Table(title=f"probability of a right answer, from {start:.3f}, after so many completions")
    for column in ("", *(f"{number:,}" for number in COMPLETIONS)):
        table.add_column(column, justify="right" if column else "left")
    for name in SEARCHES:
        values_SC = np.array([reached(name, seed) for seed in seeds])
        errors_C = values_SC.std(0, ddof=1) / math.sqrt(len(seeds))
        table.add_row(name, *(f"{m:.3f} ± {e:.3f}" for m, e in zip(values_SC.mean(0), errors_C, strict=True)))
    Console(width=110).print(table)
    table = Table("", "sigma", title="where rewards say nothing, times the first sigma")
    for name in ("pairs and LRA", "pairs", "LRA", "neither"):
        grown_S = np.log([growth_of_sigma(name, seed) for seed in seeds])
        low, middle, high = np.exp([grown_S.min(), grown_S.mean(), grown_S.max()])
        table.add_row(name, f"{middle:.2f} ({low:.2f} to {high:.2f})")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
