"""The output and error files of a batch that has ended, written as streams from what was stored of its lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection, Row

from server.batches import leases
from server.batches.answers import unanswered
from server.batches.lines import LineError, lines_of, parse_line, without
from server.batches.results import answered_lines, delete_results, stored_results
from server.core.clock import now
from server.core.ids import new_id
from server.db.database import Database
from server.training.files.rows import PREFIX as FILE_PREFIX
from server.training.files.rows import insert_file, location_of
from server.training.files.storage import FileStorage, StoredBytes

PURPOSE = "batch_output"


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file whose bytes are durable, and which has no row yet."""

    id: str
    location: str
    stored: StoredBytes
    lines: int

    def insert(self, connection: Connection, batch: Row[Any], kind: str) -> None:
        """Make it a file of the batch's tenant; `kind` is "output" or "error"."""
        at = now()
        insert_file(
            connection,
            id=self.id,
            tenant_id=batch.tenant_id,
            purpose=PURPOSE,
            filename=f"{batch.id}_{kind}.jsonl",
            bytes=self.stored.size,
            sha256=self.stored.sha256,
            location=self.location,
            created_at=at,
            expires_at=None if batch.output_expires_s is None else at + batch.output_expires_s,
        )


class Lines(io.RawIOBase):
    """Lines as a file to read from, with a count of those that were read."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._held = bytearray()
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._held) < len(buffer):
            line = next(self._lines, None)
            if line is None:
                break
            self.count += 1
            self._held += line.encode() + b"\n"
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        del self._held[:size]
        return size


def write_file(files: FileStorage, tenant_id: int, lines: Iterable[str]) -> WrittenFile | None:
    """Write `lines`; None, and no file, when there are none. Blocks. Unavailable when the storage fails."""
    first = next(lines := iter(lines), None)
    if first is None:
        return None
    file_id = new_id(FILE_PREFIX)
    location = location_of(tenant_id, file_id)

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines

    source = Lines(all_lines())
    stored = files.write(source, location)  # type: ignore[arg-type]
    return WrittenFile(file_id, location, stored, source.count)


def write_files(
    files: FileStorage,
    database: Database,
    batch: Row[Any],
    owner: str,
    chunks: Iterable[bytes],
    reason: tuple[str, str] | None,
    told: Sequence[Mapping[str, Any]] = (),
) -> bool:
    """Write the files of a batch that is being finalised, and end it with them. False when it is no more `owner`'s.

    chunks, reason: of the input file, and what is said of its lines that have no answer; None when all have one.
    told: errors of the batch that were found on the way.
    Blocks. Unavailable when the storage or the database fails. No file stays of a batch that surely was not ended here.
    """
    made: dict[str, WrittenFile] = {}
    may_have_ended = False

    def end(connection: Connection) -> bool:
        nonlocal may_have_ended
        may_have_ended = False
        seen = leases.standing(connection, batch.id, owner, lock=True)
        if seen.wanted == "nothing":
            return False
        values: dict[str, Any] = {"errors": json.dumps([*json.loads(seen.row.errors or "[]"), *told])} if told else {}
        for kind, file in made.items():
            file.insert(connection, batch, kind)
            values[f"{kind}_file_id"] = file.id
        if "error" in made:
            values["failed"] = made["error"].lines
        leases.end(connection, seen.row, **values)
        may_have_ended = True
        return True

    try:
        for kind, lines in (
            ("output", stored_results(database, batch.id, errors=False)),
            ("error", errors(database, batch, chunks, reason)),
        ):
            file = write_file(files, batch.tenant_id, lines)
            if file is not None:
                made[kind] = file
        if not database.transact(end):
            return False
    finally:
        if not may_have_ended:
            for file in made.values():
                files.delete(file.location)
    while database.transact(lambda to: delete_results(to, batch.id)):
        pass
    return True


def errors(
    database: Database, batch: Row[Any], chunks: Iterable[bytes], reason: tuple[str, str] | None
) -> Iterator[str]:
    """The lines of the error file: answers that are errors, then for a `reason` the lines that were never answered."""
    yield from stored_results(database, batch.id, errors=True)
    if reason is None:
        return
    for number, text in without(lines_of(chunks), answered_lines(database, batch.id)):
        # A file whose time was over before it was checked may hold other lines too.
        with suppress(LineError):
            yield unanswered(parse_line(number, text, batch.endpoint).custom_id, reason)
