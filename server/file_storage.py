"""Where the bytes of uploaded files are: a directory, or a bucket, by fsspec's URL.

Design decision: a file is written under a temporary name and renamed when all of it is durable, so whatever is under a
final name is complete. A row of the database is made after that: the worst that a crash leaves is bytes without a row.

It knows no tenants and no rows; blocks, so call it from worker threads.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from server.errors import Unavailable

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What was written: how many bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


class FileStorage:
    """Files by location, a path below the root. Raises Unavailable (503) when the storage does not answer.

    ValueError for a URL that fsspec does not know.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, source: BinaryIO, location: str) -> StoredBytes:
        """Store what `source` has left."""
        path = self._path(location)
        temporary = f"{path}.{secrets.token_hex(8)}.part"
        digest, size = hashlib.sha256(), 0
        with _unavailable_when_failing():
            self._fs.makedirs(self._fs._parent(path), exist_ok=True)
            try:
                with self._fs.open(temporary, "wb") as target:
                    while chunk := source.read(CHUNK_BYTES):
                        digest.update(chunk)
                        size += len(chunk)
                        target.write(chunk)
                    if self._is_local:
                        target.flush()
                        os.fsync(target.fileno())
                self._rename(temporary, path)
            except BaseException:
                with suppress(OSError):
                    self._fs.rm(temporary)
                raise
        return StoredBytes(size, digest.hexdigest())

    def read(self, location: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces; it is opened before this returns."""
        with _unavailable_when_failing():
            source = self._fs.open(self._path(location), "rb")
        return _chunks(source)

    def delete(self, location: str) -> None:
        """Remove a file; one that is gone already is no error, and neither is a storage that does not answer."""
        try:
            self._fs.rm(self._path(location))
        except FileNotFoundError:
            pass
        except OSError as error:
            structlog.get_logger().warning("file left in storage", location=location, reason=str(error))

    def _path(self, location: str) -> str:
        return f"{self._root}/{location}"

    def _rename(self, temporary: str, path: str) -> None:
        if not self._is_local:
            self._fs.mv(temporary, path)
            return
        os.replace(temporary, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    with source, _unavailable_when_failing():
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _unavailable_when_failing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason: Any = error.strerror or error
        structlog.get_logger().warning("file storage unavailable", error=type(error).__name__, reason=str(error))
        raise Unavailable(
            f"The storage of files does not answer ({reason}); try again in a moment. The server's log has the reason.",
            code="storage_unavailable",
        ) from error
