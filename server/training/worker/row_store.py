"""The rows of a job's file, which stay on disk; in memory is only where each of them begins.

Design decision: rows are read and tokenized again whenever a step needs them, which costs nothing beside the step.
Keeping them would take several gigabytes for a file of half a gigabyte, for every job of a worker.
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
    """Rows of `file` in some order. `make` turns (line number, line) into what is read; it runs in a thread.

    places: three numbers a row: its line number, the offset of the line and its length, in bytes.
    """

    file: BinaryIO
    make: Callable[[int, bytes], T]
    places: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.places) // 3

    @classmethod
    def of(cls, file: BinaryIO, rows: Iterable[Row], make: Callable[[int, bytes], T]) -> RowStore[T]:
        """A store of all `rows`; only their places are kept."""
        places = array("Q")
        for row in rows:
            places.extend((row.line, row.start, row.length))
        return cls(file, make, places)

    def only(self, indices: Sequence[int]) -> RowStore[T]:
        """A store of the rows at these indices."""
        places = array("Q")
        for index in indices:
            places.extend(self.places[3 * index : 3 * index + 3])
        return RowStore(self.file, self.make, places)

    async def read(self, indices: Sequence[int] | None = None) -> list[T]:
        """What `make` returns for the rows at these indices, by default for all."""
        return await asyncio.to_thread(self._read, range(len(self)) if indices is None else indices)

    def _read(self, indices: Sequence[int]) -> list[T]:
        made = []
        for index in indices:
            line, start, length = self.places[3 * index : 3 * index + 3]
            # With a position of its own: a job's steps and evaluations read at the same time.
            made.append(self.make(line, os.pread(self.file.fileno(), length, start)))
        return made
