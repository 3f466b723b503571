"""A file's lines a portion at a time: what is read at once stays small however long the file is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_LINE_BYTES = 2**20
# A portion ends behind the line with which it has as many; so it has less than the sum of both.
PORTION_BYTES = 2**20
# What some editors write before the first line.
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """The line with number `number` (from 1), whose first byte is at `start`. Of one that is longer than
    MAX_LINE_BYTES, `data` has one byte more than that."""

    number: int
    start: int
    data: bytes

    @property
    def is_too_long(self) -> bool:
        """Whether `data` is only its beginning; then nothing behind it can be read."""
        return len(self.data) > MAX_LINE_BYTES

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it, so that it is skipped."""
        return not self.is_too_long and not (self.data.removeprefix(BOM) if self.start == 0 else self.data).strip()


def read_portion(file: BinaryIO, number: int, start: int, most_lines: int) -> Iterator[Line]:
    """The lines of `file` from its position on, which is `start`, the first byte of line `number`.

    At most `most_lines`, and none behind one that is too long.
    """
    read = 0
    for place in range(number, number + most_lines):
        data = file.readline(MAX_LINE_BYTES + 1)
        if not data:
            return
        line = Line(place, start + read, data)
        yield line
        read += len(data)
        if read >= PORTION_BYTES or line.is_too_long:
            return


def is_empty(file: BinaryIO, end: int) -> bool:
    """Whether all lines of `file`, which is at its beginning, are empty up to the byte `end`."""
    place = 0
    while place < end and (data := file.read(min(PORTION_BYTES, end - place))):
        if (data if place else data.removeprefix(BOM)).strip():
            return False
        place += len(data)
    return True
