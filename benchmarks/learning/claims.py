"""What is claimed of training few numbers, by the paper and by this project, and what the runs say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.learning.gains import Scores, gain_of, over_tasks
from benchmarks.learning.run_file import published
from benchmarks.learning.untrained import SEEDLESS

# By task.
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
ENOUGH_SEEDS = 3
PAPER = "arXiv 2602.04118"
HERE = "this project"
BASE = "base model"


@dataclass(frozen=True, slots=True)
class Claim:
    """That arm `better` is better than `worse`."""

    sentence: str
    source: str
    better: str
    worse: str


CLAIMS = (
    Claim("GRPO with all defaults, 196 numbers here, makes the model better", HERE, "grpo-196", BASE),
    Claim("it is the rewards that teach: random ones do less", HERE, "grpo-196", "random-196"),
    Claim("it gains more than the commonest answer to everything", HERE, "grpo-196", "constant"),
    Claim("it gains more than the best prompt", HERE, "grpo-196", "prompt"),
    Claim("13 numbers make it better, too", HERE, "grpo", BASE),
    Claim("random rewards do less with them", HERE, "grpo", "random"),
    Claim("so do rewards for the form alone", HERE, "grpo", "format"),
    Claim("so do rewards by majority vote", HERE, "grpo", "majority"),
    Claim("they gain more than the commonest answer to everything", HERE, "grpo", "constant"),
    Claim("they gain more than the best prompt", HERE, "grpo", "prompt"),
    Claim("they gain more than the best of 64 random vectors", HERE, "grpo", "best-of-n"),
    Claim("evolution (CMA-ES) makes the model better", HERE, "cma-es", BASE),
    Claim("evolution gains more than GRPO at as many completions, 13 numbers each", HERE, "cma-es", "grpo"),
    Claim("CMA-ES gains more than OpenAI-ES", HERE, "cma-es", "openai-es"),
    Claim("sampling one step ahead costs reward", HERE, "grpo", "off-policy"),
    Claim("choosing prompts by what their groups did gains more", HERE, "grpo-learnable", "grpo"),
    Claim("factors of the weights gain more than random ones", HERE, "grpo", "grpo-random-factors"),
    Claim("with 13 numbers reinforcement gains more than imitation", PAPER, "grpo", "sft"),
    Claim("with 196 too", PAPER, "grpo-196", "sft-196"),
    Claim("more numbers gain more: 13 than 1", PAPER, "grpo", "grpo-1"),
    Claim("196 than 13", PAPER, "grpo-196", "grpo"),
    Claim("tiled tying gains more than structured, 14 numbers each", PAPER, "grpo-tiled-14", "grpo-structured"),
    Claim("float32 gains more than bfloat16 at equal bytes (7 numbers, 13 numbers)", PAPER, "grpo-float32", "grpo"),
    Claim("rank 2 gains more than rank 1", PAPER, "grpo", "grpo-rank-1"),
    Claim("rank 2 gains more than rank 4", PAPER, "grpo", "grpo-rank-4"),
    Claim("fewer numbers per module before more modules per group: 13 x 1 than 1 x 13", PAPER, "grpo", "grpo-u-13"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """verdict, words: of the difference. count: of tasks and seeds."""

    verdict: str
    words: str
    count: str


def found(claim: Claim, runs: Runs) -> Found:
    """What the runs say: on the same rows, seeds and tasks. Tasks with fewer than ENOUGH_SEEDS count only where no task
    has as many."""
    tasks = [pairs for those in runs.values() if (pairs := _pairs(claim, those))]
    if not tasks:
        return Found("not run", "", "")
    tasks = [pairs for pairs in tasks if len(pairs) >= ENOUGH_SEEDS] or tasks
    seeds = [len(pairs) for pairs in tasks]
    gain = over_tasks([gain_of(pairs) for pairs in tasks])
    count = f"{len(tasks)}, {min(seeds)}" + (f" to {max(seeds)}" if max(seeds) > min(seeds) else "")
    if min(seeds) < ENOUGH_SEEDS or gain.standard_error is None:
        verdict = "too few runs"
    elif abs(gain.mean) <= 2 * gain.standard_error:
        verdict = "cannot be told"
    else:
        verdict = "yes" if gain.mean > 0 else "the opposite"
    return Found(verdict, gain.words(), count)


def _pairs(claim: Claim, runs: Sequence[Mapping[str, Any]]) -> list[tuple[Scores, Scores]]:
    """For every seed that both arms have: (worse, better), sampled. What has no seed of its own serves for all."""
    better = {run["seed"]: _sampled(run) for run in runs if run["arm"] == claim.better}
    if claim.worse == BASE:
        before = {run["seed"]: run["before"]["sampled"]["scores"] for run in runs if run["arm"] == claim.better}
        return [(before[seed], better[seed]) for seed in sorted(better)]
    worse = {run["seed"]: _sampled(run) for run in runs if run["arm"] == claim.worse}
    if claim.worse in SEEDLESS and worse:
        return [(next(iter(worse.values())), better[seed]) for seed in sorted(better)]
    return [(worse[seed], better[seed]) for seed in sorted(better.keys() & worse.keys())]


def _sampled(run: Mapping[str, Any]) -> Scores:
    scores: Scores = published(run)["sampled"]["scores"]
    return scores
