"""What the server should know: tenants with adapters of the same names, as they were last acknowledged.

Design decision: a record of what was written rather than a copy of the server's rules. A request that ran while its
name was being changed may be answered with the old or the new state; both are accepted, and no third.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor

NAMES = ("demo", "math", "team/shared")
ALIAS = "prod"


@dataclass
class Named:
    """One adapter of one tenant: the content of every version there was, and which of them are not deleted."""

    versions: dict[int, Tensor] = field(default_factory=dict)
    live: frozenset[int] = frozenset()
    alias: int | None = None
    # Writes begun and ended: equal where none is under way.
    begun: int = 0
    ended: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around a write and what is noted of it."""
        self.begun += 1
        try:
            yield
        finally:
            self.ended += 1

    def now(self) -> Seen:
        """What a request that begins now may rely on."""
        return Seen(self, self.live, self.alias, self.begun, self.begun == self.ended)


@dataclass(frozen=True)
class Seen:
    """The state of an adapter when a request began."""

    named: Named
    live: frozenset[int]
    alias: int | None
    begun: int
    quiet: bool

    @property
    def latest(self) -> int | None:
        return max(self.live, default=None)

    def if_live(self, version: int | None) -> int | None:
        """The version that a request for `version` gets; None where it is to be told that there is none."""
        return version if version in self.live else None

    @property
    def still_true(self) -> bool:
        """Whether nothing was written since, nor while this was seen."""
        return self.quiet and self.named.begun == self.begun


@dataclass
class Tenant:
    name: str
    key: str
    adapters: dict[str, Named] = field(default_factory=lambda: {name: Named() for name in NAMES})


@dataclass(frozen=True)
class Answer:
    """What a tenant was answered, and the vector that its request asked for (None: the base model)."""

    asked: str
    vector: Tensor | None
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
