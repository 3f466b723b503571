"""Ratios of programs that are alive together and asked in turn.

On a machine that others use too, minutes differ by more than what is measured: the same code, measured one after the
other, came out at 0.63 and at 0.95 of another. So every round asks each program once, one right after the other; a
ratio is of two neighbours in time, and what is reported is the median over rounds, with the lowest and the highest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How fast something is relative to a base: 0.5 takes twice the seconds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def in_turn(runs: Mapping[str, Callable[[], ResultT]], rounds: int) -> dict[str, list[ResultT]]:
    """Call each of `runs` once per round; what they return, by name. Every other round goes backwards, so that nobody
    always comes first."""
    results: dict[str, list[ResultT]] = {name: [] for name in runs}
    for number in range(rounds):
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            results[name].append(runs[name]())
    return results


def speed(base_s: Sequence[float], other_s: Sequence[float]) -> Ratio:
    """The speed of what took `other_s` seconds relative to what took `base_s`, round by round. Both of one length."""
    ratios = [base / other for base, other in zip(base_s, other_s, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))
