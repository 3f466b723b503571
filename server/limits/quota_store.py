"""Where quotas are counted: what a store is, and the one of this process alone.

What a quota allows is decided in quotas.py. A store knows buckets, which gain evenly and may be in debt
(token_bucket.py), and how many requests are open. It takes everything that a request needs, or nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.limits.token_bucket import MINUTE_S, NO_WAIT_S, Bucket, TokenBuckets


@dataclass(frozen=True, slots=True)
class Draw:
    """So much of a bucket, which must have as much as it `leaves` besides."""

    bucket: Bucket
    amount: int
    leaves: int = 0

    @property
    def seconds(self) -> float:
        """How long the bucket takes to gain it."""
        return MINUTE_S * self.amount / self.bucket.per_minute if self.amount else 0.0

    @property
    def needed_s(self) -> float:
        """How long it takes to gain all that must be there."""
        return self.seconds + (MINUTE_S * self.leaves / self.bucket.per_minute if self.leaves else 0.0)


@dataclass(frozen=True, slots=True)
class Hold:
    """One more open request of `key`, which may have so many."""

    key: str
    limit: int


@dataclass(frozen=True, slots=True)
class Taken:
    """How a request fared. `to_full_s` is of the bucket of each draw, after it if it was `granted`: the seconds until
    it is full. `open` is how many requests each hold's key had open before.

    `name` tells the request from others where its holds are counted; `shared`: it is counted for all gateways.
    """

    granted: bool
    draws: Sequence[Draw]
    holds: Sequence[Hold]
    to_full_s: Sequence[float]
    open: Sequence[int]
    name: str = ""
    shared: bool = False


class QuotaStore(Protocol):
    """For one event loop."""

    async def take(self, draws: Sequence[Draw], holds: Sequence[Hold]) -> Taken:
        """All of it, if every bucket has what is drawn and every key fewer open requests than it may; else nothing."""

    def give_back(self, taken: Taken, draws: Sequence[Draw]) -> None:
        """A granted request has ended: its holds are let go. `draws` are taken besides, whether or not they are there;
        a negative amount is given back."""


@dataclass(slots=True)
class ProcessQuotas:
    """Quotas of this process. `clock` gives seconds, from any origin."""

    clock: Callable[[], float] = time.monotonic
    open: Counter[str] = field(default_factory=Counter)  # requests now open, by key
    buckets: TokenBuckets = field(init=False)

    def __post_init__(self) -> None:
        self.buckets = TokenBuckets(self.clock)

    async def take(self, draws: Sequence[Draw], holds: Sequence[Hold]) -> Taken:
        # There is no await between checking and taking, so two requests cannot both take the last of a quota.
        open_now = [self.open[hold.key] for hold in holds]
        granted = all(count < hold.limit for count, hold in zip(open_now, holds, strict=True))
        granted &= all(self._to_full(draw) + draw.needed_s <= MINUTE_S + NO_WAIT_S for draw in draws)
        if granted:
            self.force(draws, holds)
        return Taken(granted, draws, holds, [self._to_full(draw) for draw in draws], open_now)

    def force(self, draws: Sequence[Draw], holds: Sequence[Hold]) -> None:
        """Take it whether or not it is there."""
        self._draw(draws)
        self.open.update(hold.key for hold in holds)

    def give_back(self, taken: Taken, draws: Sequence[Draw]) -> None:
        self._draw(draws)
        for hold in taken.holds:
            self.open[hold.key] -= 1
            if self.open[hold.key] <= 0:
                del self.open[hold.key]

    def _draw(self, draws: Sequence[Draw]) -> None:
        for draw in draws:
            if draw.amount:
                self.buckets.take(draw.bucket, draw.amount)

    def _to_full(self, draw: Draw) -> float:
        return self.buckets.seconds_to_full(draw.bucket)
