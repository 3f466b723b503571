"""What is claimed of training few numbers, by the paper and by this project, and what the runs say of it.

A difference is told from chance where one as large is found at most once in 20 times without any truth. That is for all
claims with enough runs together (Holm 1979): with a limit for each, one of twenty claims would pass by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.learning.gains import Gain, Scores, gain_of, over_tasks, signed
from benchmarks.learning.run_file import published
from benchmarks.learning.untrained import PROMPTS, SEEDLESS, VECTORS

# By task.
Runs = Mapping[str, Sequence[Mapping[str, Any]]]
ENOUGH_SEEDS = 3
PAPER = "arXiv 2602.04118"
HERE = "this project"
BASE = "base model"
LIMIT = 0.05


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
    Claim(f"it gains more than the best of {len(PROMPTS)} prompts", HERE, "grpo-196", "prompt"),
    Claim("13 numbers make it better, too", HERE, "grpo", BASE),
    Claim("random rewards do less with them", HERE, "grpo", "random"),
    Claim("so do rewards for the form alone", HERE, "grpo", "format"),
    Claim("so do rewards by majority vote", HERE, "grpo", "majority"),
    Claim("they gain more than the commonest answer to everything", HERE, "grpo", "constant"),
    Claim(f"they gain more than the best of {len(PROMPTS)} prompts", HERE, "grpo", "prompt"),
    Claim(f"they gain more than the best of {VECTORS} random vectors, half the completions", HERE, "grpo", "best-of-n"),
    Claim("evolution (CMA-ES) makes the model better", HERE, "cma-es", BASE),
    Claim("evolution gains more than GRPO at as many completions, 13 numbers each", HERE, "cma-es", "grpo"),
    Claim("GRPO with all defaults gains more than evolution with 13 numbers", HERE, "grpo-196", "cma-es"),
    Claim("in at least as many seconds, 32 steps against 20, it gains more than GRPO", HERE, "cma-es-long", "grpo"),
    Claim("CMA-ES gains more than OpenAI-ES", HERE, "cma-es", "openai-es"),
    Claim("sampling one step ahead costs reward", HERE, "grpo", "off-policy"),
    Claim("factors of the weights gain more than random ones", HERE, "grpo", "grpo-random-factors"),
    Claim("reinforcement needs fewer numbers than imitation: with 13 each it gains more", PAPER, "grpo", "sft"),
    Claim("with 196 too", PAPER, "grpo-196", "sft-196"),
    Claim("more numbers gain more: 4 than 1", PAPER, "grpo-4", "grpo-1"),
    Claim("13 than 1", PAPER, "grpo", "grpo-1"),
    Claim("13 than 4", PAPER, "grpo", "grpo-4"),
    Claim("49 than 13", PAPER, "grpo-49", "grpo"),
    Claim("196 than 13", PAPER, "grpo-196", "grpo"),
    Claim("196 than 49", PAPER, "grpo-196", "grpo-49"),
    Claim("LoRA of rank 1 by TRL, 305,280 numbers, than 196", HERE, "rank-1-lora", "grpo-196"),
    Claim("tiled tying gains more than structured, 14 numbers each", PAPER, "grpo-tiled-14", "grpo-structured"),
    Claim(
        "float32 gains more than bfloat16 at about equal bytes (7 numbers, 28 bytes; 13 numbers, 26 bytes)",
        PAPER,
        "grpo-float32",
        "grpo",
    ),
    Claim("rank 2 gains more than rank 1", PAPER, "grpo", "grpo-rank-1"),
    Claim("rank 2 gains more than rank 4", PAPER, "grpo", "grpo-rank-4"),
    Claim("fewer numbers per module before more modules per group: 13 x 1 than 1 x 13", PAPER, "grpo", "grpo-u-13"),
)

# That a setting's default gains more than another value of it, which is all that differs.
VARIED = (
    Claim("sampling at temperature 1, and not 0.6", HERE, "grpo-196", "grpo-196-temperature-0.6"),
    Claim("16 groups of 8 completions, and not 32 of 4", HERE, "grpo-196", "grpo-196-small-groups"),
    Claim("16 groups of 8 completions, and not 8 of 16", HERE, "grpo-196", "grpo-196-large-groups"),
    Claim("the automatic rate, and not half of it", HERE, "grpo-196", "grpo-196-half-rate"),
    Claim("the automatic rate, and not twice as much", HERE, "grpo-196", "grpo-196-twice-rate"),
    Claim("a constant rate, and not one that falls to 0", HERE, "grpo-196", "grpo-196-linear"),
    Claim("20 steps, and not 40", HERE, "grpo-196", "grpo-196-long"),
    Claim("prompts in turn, and not by what their groups did", HERE, "grpo", "grpo-learnable"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """verdict, words: of the difference. chance: of one as large without any truth, for all claims together; None where
    there are too few runs. count: of tasks and seeds. by_task: the difference on each; in brackets those left out.
    greedy: the difference at temperature 0, without a verdict.
    """

    verdict: str
    words: str = ""
    greedy: str = ""
    chance: float | None = None
    count: str = ""
    by_task: str = ""


@dataclass(frozen=True, slots=True)
class _Compared:
    """A claim's gain over tasks, sampled and greedy, and how many seeds each of them has."""

    gain: Gain
    greedy: Gain
    seeds: Sequence[int]
    by_task: str

    @property
    def chance(self) -> float | None:
        return self.gain.chance() if min(self.seeds) >= ENOUGH_SEEDS else None


def found(claims: Sequence[Claim], runs: Runs) -> list[Found]:
    """What the runs say of every claim: on the same rows, seeds and tasks. Tasks with fewer than ENOUGH_SEEDS count
    only where no task has as many."""
    compared = [_compared(claim, runs) for claim in claims]
    chances = _holm([one.chance if one else None for one in compared])
    return [_found(one, chance) for one, chance in zip(compared, chances, strict=True)]


def _compared(claim: Claim, runs: Runs) -> _Compared | None:
    tasks = {task: pairs for task, those in runs.items() if (pairs := _pairs(claim, those, "sampled"))}
    if not tasks:
        return None
    gains = {task: gain_of(pairs) for task, pairs in tasks.items()}
    counted = [task for task, pairs in tasks.items() if len(pairs) >= ENOUGH_SEEDS] or list(tasks)
    greedy = over_tasks([gain_of(_pairs(claim, runs[task], "greedy")) for task in counted])
    shown = {task: f"{task} {signed(gain.mean)}" for task, gain in gains.items()}
    by_task = [shown[task] for task in counted] + [f"({shown[task]})" for task in tasks if task not in counted]
    sampled = over_tasks([gains[task] for task in counted])
    return _Compared(sampled, greedy, [len(tasks[task]) for task in counted], ", ".join(by_task))


def _found(compared: _Compared | None, chance: float | None) -> Found:
    if compared is None:
        return Found("not run")
    gain, seeds = compared.gain, compared.seeds
    count = f"{len(seeds)}, {min(seeds)}" + (f" to {max(seeds)}" if max(seeds) > min(seeds) else "")
    if chance is None:
        verdict = "too few runs"
    elif chance > LIMIT:
        verdict = "cannot be told"
    else:
        verdict = "yes" if gain.mean > 0 else "the opposite"
    return Found(verdict, gain.words(), compared.greedy.words(), chance, count, compared.by_task)


def _holm(chances: Sequence[float | None]) -> list[float | None]:
    """As many, each for all of them together: the smallest of n counts n times, the next one n - 1 times, and none less
    than the one before."""
    known = sorted((chance, place) for place, chance in enumerate(chances) if chance is not None)
    adjusted, highest = list(chances), 0.0
    for number, (chance, place) in enumerate(known):
        adjusted[place] = highest = max(highest, min(1.0, (len(known) - number) * chance))
    return adjusted


def _pairs(claim: Claim, runs: Sequence[Mapping[str, Any]], how: str) -> list[tuple[Scores, Scores]]:
    """For every seed that both arms have: (worse, better), `how` one of "sampled" and "greedy". What has no seed of its
    own serves for all."""
    better = {run["seed"]: _scores(run, how) for run in runs if run["arm"] == claim.better}
    if claim.worse == BASE:
        before = {run["seed"]: run["before"][how]["scores"] for run in runs if run["arm"] == claim.better}
        return [(before[seed], better[seed]) for seed in sorted(better)]
    worse = {run["seed"]: _scores(run, how) for run in runs if run["arm"] == claim.worse}
    if claim.worse in SEEDLESS and worse:
        return [(next(iter(worse.values())), better[seed]) for seed in sorted(better)]
    return [(worse[seed], better[seed]) for seed in sorted(better.keys() & worse.keys())]


def _scores(run: Mapping[str, Any], how: str) -> Scores:
    scores: Scores = published(run)[how]["scores"]
    return scores
