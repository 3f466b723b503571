"""Whose turn it is to measure: of those who wait, the one that comes first in a fixed order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Turns:
    """One at a time, by `order`, which has all names, and nobody before `begin`. Threads take their turns by name."""

    def __init__(self, order: Sequence[str]) -> None:
        self._order = list(order)
        self._waiting: set[str] = set()
        self._is_taken = True
        self._changed = threading.Condition()

    def begin(self) -> None:
        self._end()

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait until nobody has the turn and nobody waits that comes before `name`."""
        with self._changed:
            self._waiting.add(name)
            self._changed.wait_for(lambda: not self._is_taken and min(self._waiting, key=self._order.index) == name)
            self._waiting.remove(name)
            self._is_taken = True
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._is_taken = False
            self._changed.notify_all()
