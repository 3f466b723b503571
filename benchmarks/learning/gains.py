"""What was gained on the test rows, over seeds, and how far to trust it.

A gain is paired: the scores of a row (the mean of its samples) of one model, minus those of another, g[s, r] for seed s
of S and row r of R. Its mean is over both. All seeds are measured on the same rows, so the error has two sources that
averaging over the other one does not remove, and the standard error is that of two crossed random effects:

    V = V_rows + V_seeds - V_rest                 standard error = sqrt(max(V, V_rows, V_seeds))
    V_rows  = sum_r (g[., r] - g)^2 / ((R - 1) R)           other rows: clients.evaluation.accuracy's estimate
    V_seeds = sum_s (g[s, .] - g)^2 / ((S - 1) S)           other seeds
    V_rest  = sum_sr (g[s, r] - g[s, .] - g[., r] + g)^2 / ((S - 1)(R - 1) S R)           which both contain

With one seed it is V_rows, and says nothing about other seeds. The range is of g[s, .], the gains of single seeds.

Over several tasks the mean is of the tasks' means, and the error is of tasks that are independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clients.evaluation.accuracy import difference, estimate

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
        """`+0.11 ± 0.03`."""
        return f"{self.mean:+.2f}" + ("" if self.standard_error is None else f" ± {self.standard_error:.2f}")


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


def over_tasks(gains: Sequence[Gain]) -> Gain:
    """The mean of gains on different tasks; lowest and highest are of single seeds of single tasks."""
    errors = [gain.standard_error for gain in gains if gain.standard_error is not None]
    return Gain(
        before=_mean([gain.before for gain in gains]),
        after=_mean([gain.after for gain in gains]),
        mean=_mean([gain.mean for gain in gains]),
        standard_error=math.hypot(*errors) / len(gains) if len(errors) == len(gains) else None,
        lowest=min(gain.lowest for gain in gains),
        highest=max(gain.highest for gain in gains),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
