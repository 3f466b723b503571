"""How many sequences of work that nobody waits for (lines of batches) may run, beside requests that somebody waits for.

    quiet    for a second no request was open: up to `alone` sequences
    beside   a request is open, or was a moment ago: up to `beside`, which after each end rest four times as long as
             they ran, so that they take a fifth of the time and are never starved

A line that is wider than that (`n` of 2 and more) runs while no other does; otherwise it and all lines behind it would
wait for as long as there are requests.

Design decision: what runs is not aborted when a request comes, because its tokens would have to be computed again; the
bound on `alone` keeps slots free for whoever comes.

It orders nothing (fair_queue.py). Times are seconds of `clock`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

QUIET_S = 1.0
REST_FACTOR = 4.0
MAX_REST_S = 5.0


class BackgroundPace:
    """For one queue. `alone` and `beside` are numbers of sequences, at least 1."""

    def __init__(
        self, alone: int, beside: int, *, quiet_s: float = QUIET_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.alone = alone
        self.beside = beside
        self.running = 0  # sequences of the background
        self._requests = 0
        self._quiet_s = quiet_s
        self._clock = clock
        self._quiet_at = 0.0
        self._rested_at = 0.0

    def request_came(self) -> None:
        """A request that somebody waits for is open."""
        self._requests += 1

    def request_ended(self) -> None:
        self._requests -= 1
        self._quiet_at = self._clock() + self._quiet_s

    def fits(self, width: int) -> bool:
        """Whether so many sequences of the background may start now."""
        is_quiet = self._is_quiet()
        most = self.alone if is_quiet else self.beside
        rested = is_quiet or self._clock() >= self._rested_at
        return rested and (self.running == 0 or self.running + width <= most)

    def started(self, width: int) -> float:
        """So many started; the time at which they did."""
        self.running += width
        return self._clock()

    def ended(self, width: int, started_at: float) -> None:
        self.running -= width
        if not self._is_quiet():
            ran = self._clock() - started_at
            self._rested_at = self._clock() + min(REST_FACTOR * ran / self.beside, MAX_REST_S)

    def look_again_s(self) -> float | None:
        """After how long more may fit although nothing has ended meanwhile; None: not before something ends."""
        now = self._clock()
        times = [self._rested_at] if self._requests else [self._rested_at, self._quiet_at]
        later = [at - now for at in times if at > now]
        return min(later) if later else None

    def _is_quiet(self) -> bool:
        return not self._requests and self._clock() >= self._quiet_at
