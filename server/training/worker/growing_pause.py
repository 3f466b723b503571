"""A pause before what failed is tried again, longer every time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MAX_PAUSE_S = 600.0


@dataclass(slots=True)
class GrowingPause:
    """first_s: how long the first is. seconds: how long the last was, 0 before the first."""

    first_s: float
    seconds: float = field(init=False, default=0.0)
    _ends_at: float = field(init=False, default=0.0)

    @property
    def runs(self) -> bool:
        return time.monotonic() < self._ends_at

    def begin(self) -> None:
        """Begin the next. One that runs is not prolonged: what fails meanwhile had begun before it."""
        if not self.runs:
            self.seconds = min(MAX_PAUSE_S, max(self.first_s, 2 * self.seconds))
            self._ends_at = time.monotonic() + self.seconds

    def reset(self) -> None:
        """What failed works again, so the next is the first. Not while one runs: what works then had begun before."""
        if not self.runs:
            self.seconds = 0.0
