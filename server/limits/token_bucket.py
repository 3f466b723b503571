"""Token buckets by key, each kept as one number: the time at which it is full again.

    level(now) = per_minute * (1 - (full_at - now) / 60)

This is the generic cell rate algorithm (ITU-T I.371) in the form of virtual scheduling. A full bucket equals one that
was never used, so full ones are forgotten, a few at every taking. When a quota changes, the level scales with it.

A bucket holds a minute's quota, which may be used at once and refills evenly. It may go below zero when more was used
than was asked for. What an empty bucket means is decided in quotas.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

MINUTE_S = 60.0
# What rounding may make of a wait that is over.
NO_WAIT_S = 1e-6
FORGOTTEN_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Bucket:
    """The name of a bucket, and what it holds and gains every minute."""

    key: Hashable
    per_minute: int


class TokenBuckets:
    """`clock` gives seconds, from any origin."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._full_at)

    def level(self, bucket: Bucket) -> float:
        """What is in it now."""
        return bucket.per_minute * (1 - self.seconds_to_full(bucket) / MINUTE_S)

    def seconds_to_full(self, bucket: Bucket) -> float:
        now = self._clock()
        return max(0.0, self._full_at.get(bucket.key, now) - now)

    def seconds_until(self, bucket: Bucket, amount: int) -> float:
        """How long until it holds `amount`, which is at most its quota: 0 now, when nothing is taken meanwhile."""
        wait = self.seconds_to_full(bucket) - MINUTE_S * (1 - amount / bucket.per_minute)
        return wait if wait > NO_WAIT_S else 0.0

    def take(self, bucket: Bucket, amount: int) -> None:
        """Take `amount` whether or not it is there; a negative amount is given back."""
        now = self._clock()
        full_at = max(now, self._full_at.pop(bucket.key, now)) + MINUTE_S * amount / bucket.per_minute
        if full_at > now:
            self._full_at[bucket.key] = full_at
        self._forget_full(now)

    def _forget_full(self, now: float) -> None:
        """Look at the buckets in turn, more of them than can be new, and drop those that are full."""
        for _ in range(min(FORGOTTEN_AT_ONCE, len(self._full_at))):
            key, full_at = self._full_at.popitem(last=False)
            if full_at > now:
                self._full_at[key] = full_at
