"""What was gained on the test rows, over seeds, and how far to trust it.

A gain is paired: the scores of a row (the mean of its samples) of one model, minus those of another, g[s, r] for seed s
of S and row r of R. Its mean is over both. All seeds are measured on the same rows, so the error has two sources that
averaging over the other one does not remove, and the standard error is that of two crossed random effects:

    V = V_rows + V_seeds - V_rest                 standard error = sqrt(max(V, V_rows, V_seeds))
    V_rows  = sum_r (g[., r] - g)^2 / ((R - 1) R)           other rows: clients.evaluation.accuracy's estimate
    V_seeds = sum_s (g[s, .] - g)^2 / ((S - 1) S)           other seeds
    V_rest  = sum_sr (g[s, r] - g[s, .] - g[., r] + g)^2 / ((S - 1)(R - 1) S R)           which both contain

With one seed it is V_rows, and says nothing about other seeds. The range is of g[s, .], the gains of single seeds.

Three seeds say little of how far seeds differ, so an error that is mostly theirs is itself uncertain. A gain over its
error is therefore Student's t, with Satterthwaite's degrees of freedom:

    V^2 / (V_rows^2 / (R - 1) + V_seeds^2 / (S - 1) + V_rest^2 / ((S - 1)(R - 1)))

which are R - 1 or S - 1 where the largest of the three is V_rows or V_seeds alone.

Over several tasks the mean is of the tasks' means, and the error is of tasks that are independent of each other: of
these tasks, with other rows and seeds. It says nothing of other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mpmath

from clients.evaluation.accuracy import difference, estimate

Scores = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Gain:
    """standard_error: see the module; None with one row. degrees: of freedom, of that error. lowest, highest: of single
    seeds."""

    before: float
    after: float
    mean: float
    standard_error: float | None
    degrees: float
    lowest: float
    highest: float

    def words(self) -> str:
        """`+0.11 ± 0.03`."""
        return signed(self.mean) + ("" if self.standard_error is None else f" ± {self.standard_error:.2f}")

    def chance(self) -> float | None:
        """How often a gain of this size or more, up or down, is found where there is none; None without an error."""
        if self.standard_error is None:
            return None
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        t2 = (self.mean / self.standard_error) ** 2
        share = self.degrees / (self.degrees + t2)
        return float(mpmath.betainc(self.degrees / 2, 0.5, 0, share, regularized=True))


def signed(number: float) -> str:
    """`+0.11`; what is rounded to nothing has no minus."""
    return f"{number:+z.2f}"


def gain_of(pairs: Sequence[tuple[Scores, Scores]]) -> Gain:
    """Of one (before, after) per seed, each with the scores of the samples of every row. The rows are the same."""
    gains = [[_mean(after) - _mean(before) for before, after in zip(*pair, strict=True)] for pair in pairs]
    seeds, rows = len(gains), len(gains[0])
    by_seed = [difference(after, before).mean for before, after in pairs]
    by_row = [[_mean(column)] for column in zip(*gains, strict=True)]
    over_rows = estimate(by_row)
    mean, error, degrees = over_rows.mean, over_rows.standard_error, rows - 1.0
    if error is not None and seeds > 1:
        rest = math.fsum(
            (gains[s][r] - by_seed[s] - by_row[r][0] + mean) ** 2 for s in range(seeds) for r in range(rows)
        ) / ((seeds - 1) * (rows - 1) * seeds * rows)
        of_rows, of_seeds = error**2, math.fsum((one - mean) ** 2 for one in by_seed) / ((seeds - 1) * seeds)
        variance = max(of_rows + of_seeds - rest, of_rows, of_seeds)
        error, degrees = math.sqrt(variance), rows - 1.0 if of_rows >= of_seeds else seeds - 1.0
        if variance > max(of_rows, of_seeds):
            parts = (of_rows, rows - 1), (of_seeds, seeds - 1), (rest, (seeds - 1) * (rows - 1))
            degrees = _degrees(variance, parts)
    before = _mean([estimate(pair[0]).mean for pair in pairs])
    after = _mean([estimate(pair[1]).mean for pair in pairs])
    return Gain(before, after, mean, error, degrees, min(by_seed), max(by_seed))


def over_tasks(gains: Sequence[Gain]) -> Gain:
    """The mean of gains on different tasks; lowest and highest are of single seeds of single tasks."""
    parts = [(gain.standard_error**2, gain.degrees) for gain in gains if gain.standard_error is not None]
    variance = math.fsum(one for one, _ in parts)
    return Gain(
        before=_mean([gain.before for gain in gains]),
        after=_mean([gain.after for gain in gains]),
        mean=_mean([gain.mean for gain in gains]),
        standard_error=math.sqrt(variance) / len(gains) if len(parts) == len(gains) else None,
        degrees=_degrees(variance, parts),
        lowest=min(gain.lowest for gain in gains),
        highest=max(gain.highest for gain in gains),
    )


def _degrees(variance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Satterthwaite's, of a sum of variances with degrees of their own."""
    uncertainty = math.fsum(part**2 / degrees for part, degrees in parts if part)
    return variance**2 / uncertainty if uncertainty else min((degrees for _, degrees in parts), default=1.0)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
