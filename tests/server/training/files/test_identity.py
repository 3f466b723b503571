"""Whether a storage is the one of a database, on both databases, in a directory and in memory."""

from __future__ import annotations

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.db.training_tables import FILE_STORE, FILES
from server.launch.start_checks import CannotStart, check_files
from server.training.files.identity import LOOKED_FOR, MARKER, why_not_the_store
from server.training.files.rows import PREFIX, insert_file
from server.training.files.storage import FileStorage


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/files" if request.param == "directory" else f"memory://{tmp_path.name}/files"


def start(database: Database, url: str) -> None:
    check_files(Settings(files_url=url), database)


def add_file(database: Database, url: str | None = None) -> str:
    """A file, with its bytes in the storage at `url`; its location."""
    file_id = new_id(PREFIX)
    location = f"1/{file_id}"
    values = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "created_at": 0, "expires_at": None}
    with database.write() as connection:
        insert_file(
            connection, id=file_id, tenant_id=DEFAULT_TENANT_ID, purpose="fine-tune", location=location, **values
        )
    if url is not None:
        FileStorage(url).write(io.BytesIO(b"x"), location)
    return location


def marker(url: str) -> str:
    return b"".join(FileStorage(url).read(MARKER)).decode()


def test_a_storage_that_has_nothing_is_not_that_of_a_database_with_files(database: Database, url: str) -> None:
    start(database, url)
    add_file(database, url)
    start(database, url)
    with database.read() as connection:
        assert marker(url) == connection.execute(sa.select(FILE_STORE.c.id)).scalar_one()
    other = f"{url}-not-mounted"
    with pytest.raises(CannotStart, match=f"{other} is not where .* has no such file as {MARKER}, where {marker(url)}"):
        start(database, other)
    assert not FileStorage(other).has(MARKER)
    # As the sentence says, when they are lost.
    FileStorage(other).write(io.BytesIO(f"{marker(url)}\n".encode()), MARKER)
    start(database, other)


def test_a_first_start_is_told_of_nothing(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(database, f"{tmp_path}/not-there-yet/files")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_files_of_before_there_were_ids_are_found(database: Database, url: str) -> None:
    add_file(database, url)
    for _ in range(LOOKED_FOR - 1):
        add_file(database)
    start(database, url)
    assert marker(url)
    # Now it is known, whatever is lost later.
    add_file(database)
    start(database, url)


def test_a_database_without_files_begins_anywhere(database: Database, url: str) -> None:
    add_file(database)
    with database.write() as connection:
        connection.execute(FILES.update().values(deleted_at=1))
    start(database, url)
    add_file(database, url)
    start(database, url)


def test_the_storage_of_another_database_is_taken_only_with_files_of_this_one(database: Database, url: str) -> None:
    FileStorage(url).write(io.BytesIO(b"another"), MARKER)
    start(database, url)
    assert marker(url) == "another"
    location = add_file(database)
    with pytest.raises(CannotStart, match=f"has another in it as {MARKER}"):
        start(database, url)
    FileStorage(url).write(io.BytesIO(b"x"), location)
    start(database, url)


def test_gateways_that_start_at_once_agree(database: Database, database_url: str, url: str) -> None:
    others = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, others, [url] * 4))
    start(database, url)
    for other in others:
        other.close()


def test_a_copy_has_the_id(database: Database, tmp_path: Path) -> None:
    start(database, f"{tmp_path}/files")
    add_file(database)
    shutil.copytree(tmp_path / "files", tmp_path / "copy")
    start(database, f"{tmp_path}/copy")


def test_a_storage_that_cannot_be_read_or_written_stops_no_start(database: Database, tmp_path: Path) -> None:
    (tmp_path / "files").write_text("no directory")
    assert why_not_the_store(database, FileStorage(f"{tmp_path}/files"), "files") is None
