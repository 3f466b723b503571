"""Which of many names are worth a label of their own: the N most used lately, whoever came first.

Design decision: uses are counted with exponential decay, of the labelled names and of as many candidates. Candidates
are kept as in the space-saving algorithm (Metwally, Agrawal and El Abbadi, 2005): a newcomer takes the place of the
least used one and inherits its count, of which only what came on top is certain. A candidate takes over the label of
the least used name when what is certain of it is clearly more, so that two names used about equally do not take turns.

Instead of shrinking every count all the time, what a use counts grows with time (forward decay).

It keeps no metrics (top_counters.py) and is for one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

HALF_LIFE_S = 3600.0
LEAD = 1.5
# A power of two that is far from what a float can hold.
MAX_HALF_LIVES = 500.0


@dataclass(slots=True)
class _Candidate:
    count: float
    inherited: float = 0.0

    @property
    def certain(self) -> float:
        return self.count - self.inherited


class TopLabels:
    """At most `size` names at a time. `half_life_s`: after so long a use counts half."""

    def __init__(
        self, size: int, *, half_life_s: float = HALF_LIFE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.size = size
        self._half_life_s = half_life_s
        self._clock = clock
        self._epoch = clock()
        self._labelled: dict[str, float] = {}
        self._candidates: dict[str, _Candidate] = {}

    def __contains__(self, name: str) -> bool:
        """Whether `name` has a label."""
        return name in self._labelled

    def __len__(self) -> int:
        return len(self._labelled)

    def use(self, name: str) -> str | None:
        """Count one use of `name`, which may give it a label. Returns the name that lost its own for that."""
        if self.size == 0:
            return None
        unit = self._unit()
        if name in self._labelled:
            self._labelled[name] += unit
            return None
        if len(self._labelled) < self.size:
            self._labelled[name] = unit
            return None
        candidate = self._candidate(name)
        candidate.count += unit
        weakest = min(self._labelled, key=self._labelled.__getitem__)
        if candidate.certain <= LEAD * self._labelled[weakest]:
            return None
        del self._candidates[name]
        self._labelled[name] = candidate.certain
        self._candidates[weakest] = _Candidate(self._labelled.pop(weakest))
        return weakest

    def _candidate(self, name: str) -> _Candidate:
        known = self._candidates.get(name)
        if known is not None:
            return known
        inherited = 0.0
        if len(self._candidates) >= self.size:
            least = min(self._candidates, key=lambda other: self._candidates[other].count)
            inherited = self._candidates.pop(least).count
        candidate = self._candidates[name] = _Candidate(inherited, inherited)
        return candidate

    def _unit(self) -> float:
        """What a use counts now: 2 to the power of the half-lives since the epoch."""
        half_lives = (self._clock() - self._epoch) / self._half_life_s
        if half_lives > MAX_HALF_LIVES:
            self._begin_epoch(2.0**-half_lives if half_lives < 2 * MAX_HALF_LIVES else 0.0)
            half_lives = 0.0
        return float(2.0**half_lives)

    def _begin_epoch(self, shrink: float) -> None:
        self._epoch = self._clock()
        for name in self._labelled:
            self._labelled[name] *= shrink
        for candidate in self._candidates.values():
            candidate.count *= shrink
            candidate.inherited *= shrink
