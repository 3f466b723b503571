"""The storage of files in a directory and in memory, which stands for any of fsspec's others."""

import hashlib
import io
from pathlib import Path

import pytest

from server.core.errors import Unavailable
from server.training.files.storage import CHUNK_BYTES, FileMissing, FileStorage

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 100)


class BreaksOff(io.BytesIO):
    """A body that ends in an error."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise RuntimeError("the body broke off")
        return super().read(size)


@pytest.fixture(params=["directory", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    return FileStorage(f"{tmp_path}/files" if request.param == "directory" else f"memory://{tmp_path.name}")


def test_what_is_written_is_read(storage: FileStorage) -> None:
    stored = storage.write(io.BytesIO(CONTENT), "1/file-a")
    assert (stored.size, stored.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert b"".join(storage.read("1/file-a")) == CONTENT
    with storage.opened_at("1/file-a", len(CONTENT) - 300) as file:
        assert (file.read(7), file.readline()) == (CONTENT[-300:-293], CONTENT[-293:].partition(b"\n")[0] + b"\n")
    storage.delete("1/file-a")
    storage.delete("1/file-a")
    with pytest.raises(FileMissing):
        storage.read("1/file-a")
    with pytest.raises(FileMissing), storage.opened_at("1/file-a", 0):
        pass


def test_body_that_breaks_off_leaves_nothing(storage: FileStorage, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        storage.write(BreaksOff(CONTENT), "1/file-a")
    with pytest.raises(Unavailable):
        storage.read("1/file-a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
