"""Which of many names get a label of their own: the N most used lately.

Uses are counted with exponential decay, of the labelled names and of as many candidates. Candidates are kept by the
space-saving algorithm (Metwally, Agrawal and El Abbadi, 2005): a new name takes the place of the least used candidate
and inherits its count, so only the rest of its count is certain. A candidate takes over the label of the least used
name when its certain count is LEAD times as high, so that two names used about equally do not take turns.

Design decision: what a use counts grows with time (forward decay), instead of shrinking every count all the time.

For one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

HALF_LIFE_S = 3600.0
LEAD = 1.5
# 2**500 is far below the largest float.
MAX_HALF_LIVES = 500.0


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
        # A lower bound of the labelled names' counts. They only grow, so it holds until it is computed again.
        self._least = 0.0
        self._candidates: dict[str, float] = {}
        self._inherited: dict[str, float] = {}

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
        if name not in self._candidates:
            self._admit(name)
        self._candidates[name] += unit
        certain = self._candidates[name] - self._inherited[name]
        if certain <= LEAD * self._least:
            return None
        weakest = _least_of(self._labelled)
        self._least = self._labelled[weakest]
        if certain <= LEAD * self._least:
            return None
        del self._candidates[name], self._inherited[name]
        self._labelled[name] = certain
        self._candidates[weakest], self._inherited[weakest] = self._labelled.pop(weakest), 0.0
        return weakest

    def _admit(self, name: str) -> None:
        inherited = 0.0
        if len(self._candidates) >= self.size:
            least = _least_of(self._candidates)
            inherited = self._candidates.pop(least)
            del self._inherited[least]
        self._candidates[name] = self._inherited[name] = inherited

    def _unit(self) -> float:
        """What a use counts now: 2 to the power of the half-lives since the epoch."""
        half_lives = (self._clock() - self._epoch) / self._half_life_s
        if half_lives > MAX_HALF_LIVES:
            self._begin_epoch(2.0**-half_lives if half_lives < 2 * MAX_HALF_LIVES else 0.0)
            half_lives = 0.0
        return float(2.0**half_lives)

    def _begin_epoch(self, shrink: float) -> None:
        self._epoch = self._clock()
        self._least *= shrink
        for counts in (self._labelled, self._candidates, self._inherited):
            for name in counts:
                counts[name] *= shrink


def _least_of(counts: dict[str, float]) -> str:
    return min(counts, key=counts.__getitem__)
