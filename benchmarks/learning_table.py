"""The table of learning.py: what every arm gained on the test rows, over its seeds, and how far to trust it.

A gain is paired: the scores of a row (the mean of its samples) after training, minus those before, g[s, r] for seed s
of S and row r of R. Its mean is over both. All seeds are measured on the same rows, so the error has two sources that
averaging over the other one does not remove, and the standard error is that of two crossed random effects:

    V = V_rows + V_seeds - V_rest                 standard error = sqrt(max(V, V_rows, V_seeds))
    V_rows  = sum_r (g[., r] - g)^2 / ((R - 1) R)           other rows: clients.evaluation.accuracy's estimate
    V_seeds = sum_s (g[s, .] - g)^2 / ((S - 1) S)           other seeds
    V_rest  = sum_sr (g[s, r] - g[s, .] - g[., r] + g)^2 / ((S - 1)(R - 1) S R)           which both contain

With one seed it is V_rows, and says nothing about other seeds. The range is of g[s, .], the gains of single seeds.

Figures come from files of scores and from nothing else, so a table can be made again, and results that
other programs write in the same form are rows of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.learning_task import ARMS
from clients.evaluation.accuracy import difference, estimate

HOW = ("greedy", "sampled")
CHECKPOINTS = ("selected", "last")
LABELS: Mapping[str, str] = MappingProxyType(
    {name: arm.label for name, arm in ARMS.items()}
    | {
        "tinylora": "TRL and PEFT: GRPO, TinyLoRA",
        "lora-xs": "TRL and PEFT: GRPO, LoRA-XS",
        "rank-1-lora": "TRL and PEFT: GRPO, LoRA of rank 1",
    }
)
Scores = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Gain:
    """standard_error: see the module; None with one row. lowest, highest: of single seeds."""

    before: float
    after: float
    mean: float
    standard_error: float | None
    lowest: float
    highest: float

    def words(self) -> str:
        """`0.41 → 0.52` and `+0.110 ± 0.031 (+0.09 … +0.13)`, as two cells."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        spread = f" ({self.lowest:+.3f} … {self.highest:+.3f})"
        return f"{self.before:.3f} → {self.after:.3f} | {self.mean:+.3f}{error}{spread}"


def gain_of(pairs: Sequence[tuple[Scores, Scores]]) -> Gain:
    """Of one (before, after) per seed, each with the scores of the samples of every row. The rows are the same."""
    gains = [[_mean(after) - _mean(before) for before, after in zip(*pair, strict=True)] for pair in pairs]
    seeds, rows = len(gains), len(gains[0])
    by_seed = [difference(after, before).mean for before, after in pairs]
    by_row = [[_mean(column)] for column in zip(*gains, strict=True)]
    over_rows = estimate(by_row)
    mean, error = over_rows.mean, over_rows.standard_error
    if error is not None and seeds > 1:
        rest = math.fsum(
            (gains[s][r] - by_seed[s] - by_row[r][0] + mean) ** 2 for s in range(seeds) for r in range(rows)
        ) / ((seeds - 1) * (rows - 1) * seeds * rows)
        of_rows, of_seeds = error**2, math.fsum((one - mean) ** 2 for one in by_seed) / ((seeds - 1) * seeds)
        error = math.sqrt(max(of_rows + of_seeds - rest, of_rows, of_seeds))
    before = _mean([estimate(pair[0]).mean for pair in pairs])
    after = _mean([estimate(pair[1]).mean for pair in pairs])
    return Gain(before, after, mean, error, min(by_seed), max(by_seed))


def read_results(directory: Path, others: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The finished results in `directory`, and `others`, which are trl_peer.py's."""
    results = [json.loads(file.read_text()) for file in [*sorted((directory / "results").glob("*.json")), *others]]
    return [result for result in results if result.get("after")]


def markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line for every method and choice of its checkpoint; error bars are explained in the module."""
    by_method: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for result in results:
        by_method.setdefault((result["method"], result["parameters"]), []).append(result)
    lines = [
        "| training | numbers | bytes | vector | seeds | greedy | gain (range over seeds) | sampled "
        "| gain (range over seeds) |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    order = list(LABELS)
    for method, parameters in sorted(by_method, key=lambda key: (order.index(key[0]), key[1])):
        runs = by_method[method, parameters]
        for checkpoint, afters in _by_checkpoint(runs):
            cells = [LABELS[method], f"{parameters:,}", f"{2 * parameters:,}", checkpoint, f"{len(runs)}"]
            for how in HOW:
                pairs = [(run["before"][how], one[how]) for run, one in zip(runs, afters, strict=True)]
                cells.append(gain_of([(before["scores"], after["scores"]) for before, after in pairs]).words())
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_checkpoint(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    """What was measured after training: of several checkpoints by name, or of the last one alone."""
    if all(HOW[0] in run["after"] for run in runs):
        yield "last", [run["after"] for run in runs]
        return
    for name in CHECKPOINTS:
        yield name, [run["after"][name] for run in runs]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
