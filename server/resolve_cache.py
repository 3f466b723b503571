"""The adapters in use, in memory, so that a request finds its adapter without the database.

Design decision: an entry is stored only when nothing was invalidated between reading it and storing it (generations),
so a slow reader can never put an old version back.

It does not know when the database changes; the registry tells it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

from server.names import Reference

V = TypeVar("V")


class ResolveCache(Generic[V]):
    """A least-recently-used map of references to values. Safe to use from any thread."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Reference, V] = OrderedDict()
        self._lock = threading.Lock()
        self._generation = 0
        self._data_version: int | None = None

    def sync(self, data_version: int) -> int:
        """Forget everything if `data_version` is not the one of the last call; returns the generation to `put` with."""
        with self._lock:
            if data_version != self._data_version:
                self._data_version = data_version
                self._entries.clear()
                self._generation += 1
            return self._generation

    def get(self, reference: Reference) -> V | None:
        """The value of `reference`, if it is here."""
        with self._lock:
            value = self._entries.get(reference)
            if value is not None:
                self._entries.move_to_end(reference)
            return value

    def put(self, reference: Reference, value: V, generation: int) -> None:
        """Keep `value`, which was read after `generation` was current, unless something was invalidated since."""
        with self._lock:
            if generation != self._generation:
                return
            self._entries[reference] = value
            self._entries.move_to_end(reference)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def forget(self, reference: Reference) -> None:
        """Drop `reference`, and whatever is being read at this moment."""
        with self._lock:
            self._entries.pop(reference, None)
            self._generation += 1

    def clear(self) -> None:
        """Drop everything, and whatever is being read at this moment."""
        with self._lock:
            self._entries.clear()
            self._generation += 1
