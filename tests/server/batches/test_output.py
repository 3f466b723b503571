"""The files of a batch: written and its own together, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.batches import leases
from server.batches.answers import EXPIRED, Result, Usage
from server.batches.output import write_files
from server.batches.states import Outcome
from server.batches.turns import claim
from server.core.errors import Unavailable
from server.db.batch_tables import BATCHES
from server.db.database import Database
from server.db.training_tables import FILES
from server.training.files.storage import FileStorage
from tests.server.batches.conftest import Batches

FIRST, SECOND = "gateway-a", "gateway-b"


@pytest.fixture
def files(tmp_path: Path) -> FileStorage:
    return FileStorage(f"{tmp_path}/files")


def stored_paths(tmp_path: Path) -> set[str]:
    root = tmp_path / "files"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def finalised(batches: Batches, outcome: Outcome = "completed") -> sa.Row[Any]:
    """A batch of FIRST with an answer and an error, which is to be written to files."""
    batch_id = batches.new()
    results = [Result(1, False, "{}", Usage()), Result(2, True, "{}", Usage())]

    def settle(to: sa.Connection) -> sa.Row[Any] | None:
        claim(to, FIRST, 600)
        leases.record(to, batches.database, batch_id, FIRST, results, 600, 10**9)
        return leases.settle(to, batch_id, FIRST, outcome)

    row = batches.database.transact(settle)
    assert row is not None
    return row


def output_files(batches: Batches) -> dict[str, str]:
    """The locations of batches' files, by their names."""
    with batches.database.read() as connection:
        rows = sa.select(FILES.c.filename, FILES.c.location).where(FILES.c.purpose == "batch_output")
        return {row.filename: row.location for row in connection.execute(rows)}


def test_a_gateway_that_stood_still_leaves_no_files_to_the_one_that_took_its_batch(
    batches: Batches, files: FileStorage, tmp_path: Path
) -> None:
    row = finalised(batches)
    batches.database.transact(lambda to: to.execute(BATCHES.update().values(lease_expires_at=1)))
    assert batches.database.transact(lambda to: claim(to, SECOND, 600)) is not None
    assert not write_files(files, batches.database, row, FIRST, [], None)
    assert (output_files(batches), stored_paths(tmp_path)) == ({}, set())

    assert write_files(files, batches.database, row, SECOND, [], None)
    made = output_files(batches)
    assert set(made) == {f"{row.id}_output.jsonl", f"{row.id}_error.jsonl"}
    assert stored_paths(tmp_path) == set(made.values())
    assert not write_files(files, batches.database, row, SECOND, [], None), "it has ended"
    assert stored_paths(tmp_path) == set(made.values())


def test_a_batch_that_cannot_be_ended_for_the_moment_leaves_no_bytes_behind(
    batches: Batches, files: FileStorage, database_url: str, tmp_path: Path
) -> None:
    row = finalised(batches)
    impatient = Database(database_url, busy_timeout_s=0.2)
    with batches.database.write() as other:
        other.execute(BATCHES.update().values(lease_expires_at=BATCHES.c.lease_expires_at))
        with pytest.raises(Unavailable):
            write_files(files, impatient, row, FIRST, [], None)
    impatient.close()
    assert (output_files(batches), stored_paths(tmp_path)) == ({}, set())
    assert write_files(files, batches.database, row, FIRST, [], None)
    assert stored_paths(tmp_path) == set(output_files(batches).values())


def test_an_output_file_goes_when_the_error_file_cannot_be_written(
    batches: Batches, files: FileStorage, tmp_path: Path
) -> None:
    row = finalised(batches, "expired")

    def breaks_off() -> Iterator[bytes]:
        yield b'{"custom_id": "a"}\n'
        raise Unavailable("The storage of files failed")

    with pytest.raises(Unavailable):
        write_files(files, batches.database, row, FIRST, breaks_off(), EXPIRED)
    assert (output_files(batches), stored_paths(tmp_path)) == ({}, set())
