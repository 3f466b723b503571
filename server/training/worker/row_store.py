"""The rows of a job's file, which stay on disk: in memory is only where each of them begins.

Design decision: a row is read and tokenised again whenever a step wants it, which is nothing beside the step; a file of
half a gigabyte would take several of memory as tokens, for every job of a worker.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Generic, TypeVar

from server.training.worker.dataset import Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RowStore(Generic[T]):
    """Some rows of `file`, in an order of its own. `make` is given the number of a line and the line, in a thread.

    places: three numbers a row, its line, where that begins, and its length.
    """

    file: BinaryIO
    make: Callable[[int, bytes], T]
    places: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.places) // 3

    @classmethod
    def of(cls, file: BinaryIO, rows: Iterable[Row], make: Callable[[int, bytes], T]) -> RowStore[T]:
        """All of `rows`, of which none is kept."""
        places = array("Q")
        for row in rows:
            places.extend((row.line, row.start, row.length))
        return cls(file, make, places)

    def only(self, indices: Sequence[int]) -> RowStore[T]:
        """The rows at these places."""
        places = array("Q")
        for index in indices:
            places.extend(self.places[3 * index : 3 * index + 3])
        return RowStore(self.file, self.make, places)

    async def read(self, indices: Sequence[int] | None = None) -> list[T]:
        """What `make` makes of the rows at these places, or of all."""
        return await asyncio.to_thread(self._read, range(len(self)) if indices is None else indices)

    def _read(self, indices: Sequence[int]) -> list[T]:
        made = []
        for index in indices:
            line, start, length = self.places[3 * index : 3 * index + 3]
            # With a position of its own: a job's steps and evaluations read at the same time.
            made.append(self.make(line, os.pread(self.file.fileno(), length, start)))
        return made
