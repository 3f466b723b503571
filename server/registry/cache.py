"""A cache for what is in use, so that a request finds its adapter without waiting for the database.

Design decision: not cachetools.LRUCache, which is bounded by a number or by bytes and leaves locking to its user. Both
bounds are needed, for one adapter may be a thousand times as long as another; a class as long as this one would remain.

Whether an entry is outdated is for its user to know.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ResolveCache(Generic[K, V]):
    """A map that forgets what was used least recently. Safe to use from any thread.

    It holds at most `size` entries, and `max_bytes` by `size_of` of their values; a longer value is not kept.
    """

    def __init__(self, size: int, *, max_bytes: int = 2**62, size_of: Callable[[V], int] = lambda _: 0) -> None:
        self._size = size
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._bytes = 0
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of `key`, if it is here."""
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        """Keep `value`, in the place of what was under `key`."""
        with self._lock:
            previous = self._entries.pop(key, None)
            if previous is not None:
                self._bytes -= self._size_of(previous)
            self._entries[key] = value
            self._bytes += self._size_of(value)
            while len(self._entries) > self._size or self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= self._size_of(dropped)
