"""Where the bytes of uploaded files are: a directory, or a bucket, by fsspec's URL.

Design decision: a file is written where it stays, without a temporary name, for in a bucket a rename is another copy. A
row of the database is made when all of the file is durable, and it is the row that makes it a file: the worst that a
crash leaves is bytes without a row.

It knows no tenants and no rows; blocks, so call it from worker threads.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import structlog
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from server.core.errors import Unavailable

CHUNK_BYTES = 2**20
# Of a bucket, in one request; what one transfer needs in memory. S3 takes 10,000 of them.
BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """What was written: how many bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


class FileStorage:
    """Files by location, a path below the root. Raises Unavailable (503) when the storage does not do what it is asked.

    ValueError or ImportError for a URL that `why_no_storage` refuses.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, source: BinaryIO, location: str) -> StoredBytes:
        """Store what `source` has left."""
        path = self._path(location)
        digest, size = hashlib.sha256(), 0
        with _unavailable_when_failing():
            target = self._create(path)
        try:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                with _unavailable_when_failing():
                    target.write(chunk)
            with _unavailable_when_failing():
                self._finish(target, path)
        except BaseException:
            with suppress(Exception):
                self._abandon(target)
            self.delete(location)
            raise
        return StoredBytes(size, digest.hexdigest())

    def read(self, location: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces; it is opened before this returns."""
        with _unavailable_when_failing():
            source = self._fs.open(self._path(location), "rb", block_size=BLOCK_BYTES)
        return _chunks(source)

    def delete(self, location: str) -> None:
        """Remove a file; one that is gone already is no error, and neither is a storage that fails."""
        try:
            self._fs.rm_file(self._path(location))
        except FileNotFoundError:
            pass
        except Exception as error:  # of whatever library the URL stands for
            structlog.get_logger().warning("file left in storage", location=location, reason=str(error))

    def _path(self, location: str) -> str:
        return f"{self._root}/{location}"

    def _create(self, path: str) -> Any:
        try:
            return self._fs.open(path, "wb", block_size=BLOCK_BYTES)
        except FileNotFoundError:
            # Only now: a bucket has no directories, and would itself be made where its name is wrong.
            self._fs.makedirs(self._fs._parent(path), exist_ok=True)
            return self._fs.open(path, "wb", block_size=BLOCK_BYTES)

    def _finish(self, target: Any, path: str) -> None:
        if not self._is_local:
            target.close()
            return
        target.flush()
        os.fsync(target.fileno())
        target.close()
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _abandon(self, target: Any) -> None:
        if self._is_local:
            target.close()
        else:
            # To close would be to finish the object; what a bucket has of it would stay and be paid for.
            target.discard()
            target.closed = True


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    with source, _unavailable_when_failing():
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _unavailable_when_failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whatever library the URL stands for; not all of theirs are OSErrors
        structlog.get_logger().warning("file storage unavailable", error=type(error).__name__, reason=str(error))
        raise Unavailable(
            "The storage of files failed; try again in a moment. If it goes on, have the operator check "
            "TINYLORA_FILES_URL and its credentials: the server's log has the reason.",
            code="storage_unavailable",
        ) from error
