"""The bytes of an upload's parts as those of one file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy.engine import Row

from server.core.errors import BadRequest, quoted
from server.training.files.storage import FileStorage, StoredBytes


class Joined(io.RawIOBase):
    """Parts as one file to read from, with the MD5 of what was read."""

    def __init__(self, files: FileStorage, locations: Iterable[str]) -> None:
        self._chunks: Iterator[bytes] = (chunk for location in locations for chunk in files.read(location))
        self._held = b""
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._held = chunk
        size = min(len(buffer), len(self._held))
        buffer[:size], self._held = self._held[:size], self._held[size:]
        self._md5.update(buffer[:size])
        return size


def join_parts(
    files: FileStorage, parts: Sequence[Row[Any]], location: str, md5: str | None
) -> tuple[StoredBytes, str]:
    """Store the parts as one file at `location`; (what was stored, its MD5). BadRequest, and no file, when it has
    another MD5 than `md5`. Blocks."""
    source = Joined(files, [part.location for part in parts])
    stored = files.write(source, location)  # type: ignore[arg-type]
    if md5 is not None and md5.lower() != source.md5:
        files.delete(location)
        raise BadRequest(
            f"The parts have the MD5 {source.md5}, and md5 is {quoted(md5)}; a part was damaged, or they are in "
            "another order.",
            param="md5",
            code="checksum_mismatch",
        )
    return stored, source.md5
