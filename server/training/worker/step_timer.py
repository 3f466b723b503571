"""How long the phases of a step take."""

from __future__ import annotations

import time

from server.training.jobs.protocol import Phase


class StepTimer:
    """Seconds of a step by phase."""

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {}
        self._last = time.monotonic()

    def lap(self, name: Phase) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now

    def split(self, name: Phase, end: Phase, seconds: float) -> None:
        """Count the last `seconds` of phase `name` as phase `end`, at most all of it.

        Prefetched data may have taken longer than the step waited for it.
        """
        self.seconds[end] = min(seconds, self.seconds[name])
        self.seconds[name] -= self.seconds[end]
