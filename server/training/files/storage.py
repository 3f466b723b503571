"""The bytes of uploaded files: in a directory or a bucket, by an fsspec URL.

Design decision: a file is written to its final place and not renamed into it, because in a bucket a rename is another
copy. The row in the database is added when all of the file is durable, and only then is it a file: the worst that a
crash leaves is bytes without a row.

The calls block, so make them from worker threads.
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

from server.core.errors import ApiError, Unavailable

CHUNK_BYTES = 2**20
# One part of a transfer to a bucket, held in memory. S3 takes at most 10,000 parts.
BLOCK_BYTES = 8 * 2**20
FILE_MISSING = "file_missing"


@dataclass(frozen=True, slots=True)
class StoredBytes:
    """The size of what was written, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


class FileMissing(Unavailable):
    """The storage says that there is no such file: its bytes are gone, or it is not the storage that has them."""


class FileStorage:
    """Files by location, a path below the root of the URL. All methods but `delete` raise Unavailable on a failure.

    Construction raises ValueError or ImportError for a URL that the setting `files_url` refuses.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = url_to_fs(url)
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, source: BinaryIO, location: str) -> StoredBytes:
        """Store the rest of `source` at `location`."""
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
        """The bytes of a file in chunks. The file is opened before this returns; FileMissing where there is none."""
        with _unavailable_when_failing(location):
            source = self._fs.open(self._path(location), "rb", block_size=BLOCK_BYTES)
        return _chunks(source)

    @contextmanager
    def opened_at(self, location: str, start: int) -> Iterator[BinaryIO]:
        """The file, open at the byte `start`, for as long as the block runs, which only reads it."""
        with (
            _unavailable_when_failing(location),
            self._fs.open(self._path(location), "rb", block_size=CHUNK_BYTES) as source,
        ):
            source.seek(start)
            yield source

    def has(self, location: str) -> bool:
        """Whether there is such a file."""
        with _unavailable_when_failing():
            return bool(self._fs.exists(self._path(location)))

    def delete(self, location: str) -> None:
        """Remove a file. Neither a missing file nor a failing storage is an error."""
        try:
            self._fs.rm_file(self._path(location))
        except FileNotFoundError:
            pass
        except Exception as error:  # of whatever library the URL stands for
            structlog.get_logger().warning("file left in storage", location=location, reason=str(error))

    @contextmanager
    def deleted_if_refused(self, location: str) -> Iterator[None]:
        """Remove a file when the block, which stores its row, is refused; not for Unavailable, after which the row may
        be there."""
        try:
            yield
        except Unavailable:
            raise
        except ApiError:
            self.delete(location)
            raise

    def _path(self, location: str) -> str:
        return f"{self._root}/{location}"

    def _create(self, path: str) -> Any:
        try:
            return self._fs.open(path, "wb", block_size=BLOCK_BYTES)
        except FileNotFoundError:
            # Not before: a bucket has no directories, and with a wrong name the bucket itself would be created.
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
            # Closing would finish the object, and a bucket would keep (and bill) what it has.
            target.discard()
            target.closed = True


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    with source, _unavailable_when_failing():
        while chunk := source.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _unavailable_when_failing(read: str | None = None) -> Iterator[None]:
    """read: the location of a file that is read, for which FileMissing is raised where there is none."""
    try:
        yield
    except Exception as error:  # of whatever library the URL stands for; not all of theirs are OSErrors
        structlog.get_logger().warning("file storage unavailable", error=type(error).__name__, reason=str(error))
        if read is not None and isinstance(error, FileNotFoundError):
            raise FileMissing(
                f"The storage does not have the bytes of {os.path.basename(read)}. Use a new file, or have the "
                "operator check that TINYLORA_FILES_URL is the storage where it was uploaded, and that it is mounted.",
                code=FILE_MISSING,
            ) from error
        raise Unavailable(
            "The storage of files failed; try again in a moment. If it goes on, have the operator check "
            "TINYLORA_FILES_URL and its credentials: the server's log has the reason.",
            code="storage_unavailable",
        ) from error
