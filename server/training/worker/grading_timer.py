"""How long grading takes while the engine still samples, and how long it is waited for behind that."""

from __future__ import annotations

from collections.abc import Callable


class GradingTimer:
    """grading_s: seconds in which at least one `with` block ran, each around one completion.
    sampled_at: when the latest completions arrived, by `clock`; whoever waits for them sets it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.grading_s = 0.0
        self.sampled_at = clock()
        self._clock = clock
        self._running = 0
        self._since = 0.0

    def __enter__(self) -> None:
        if self._running == 0:
            self._since = self._clock()
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._running -= 1
        if self._running == 0:
            self.grading_s += self._clock() - self._since
