"""Files that are uploaded in parts: announced, then sent part by part, in any order and at once, then put together.

An upload has an hour. Its bytes count as a file's from when it is announced, so that parts never have to be refused for
the tenant's other files; a part that was sent again takes its bytes a second time until the upload has ended. Functions
of a connection; joined_parts.py makes one file of the parts' bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import is_id, new_id
from server.db.database import Database
from server.db.file_references import forget_deleted
from server.db.retention import DAY_S
from server.db.tenant_lock import lock_tenant
from server.db.upload_tables import UPLOAD_PARTS, UPLOADS
from server.training.files.rows import check_room, insert_file
from server.training.files.storage import FileStorage

PREFIX, PART_PREFIX = "upload_", "part_"
OPEN_S = 3600
MAX_PART_BYTES = 64 * 2**20
# OpenAI's client sends what has no answer twice more.
SENT_TIMES = 3
MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class NewUpload:
    """A file that is about to come in parts. file_expires_s: how long the file is kept; None: until it is deleted."""

    purpose: str
    filename: str
    bytes: int
    file_expires_s: int | None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a client asks for: the parts in their order, and the MD5 that the file has to have (None: any)."""

    part_ids: Sequence[str]
    md5: str | None

    @property
    def parts_sha256(self) -> str:
        """Stands for the parts, which are forgotten when they are put together."""
        return hashlib.sha256(json.dumps(list(self.part_ids)).encode()).hexdigest()

    def check_was_done(self, upload: Row[Any]) -> None:
        """BadRequest when `upload`, which is completed, was so with other parts, or has another MD5."""
        if upload.parts_sha256 not in (None, self.parts_sha256):
            raise BadRequest(
                f"The upload {upload.id} was completed with other parts, or in another order. Complete it with the "
                "same part_ids to get its file again, or make another upload.",
                param="part_ids",
                code="upload_finished",
            )
        if self.md5 is not None and upload.md5 not in (None, self.md5.lower()):
            raise BadRequest(
                f"The upload {upload.id} was completed with other parts: its file has the MD5 {upload.md5}, and md5 is "
                f"{quoted(self.md5)}.",
                param="md5",
                code="checksum_mismatch",
            )


def create_upload(
    connection: Connection, tenant_id: int, upload: NewUpload, *, most_files: int, most_bytes: int
) -> Row[Any]:
    """Announce a file; its row. BadRequest when the tenant has no room for it."""
    lock_tenant(connection, tenant_id)
    check_room(connection, tenant_id, upload.bytes, most_files=most_files, most_bytes=most_bytes)
    at = now()
    values = {
        "id": new_id(PREFIX), "tenant_id": tenant_id, "purpose": upload.purpose, "filename": upload.filename,
        "bytes": upload.bytes, "file_expires_s": upload.file_expires_s, "status": "pending",
        "created_at": at, "expires_at": at + OPEN_S,
    }  # fmt: skip
    return connection.execute(UPLOADS.insert().values(values).returning(UPLOADS)).one()


def pending_upload(connection: Connection, tenant_id: int, upload_id: str, *, lock: bool = False) -> Row[Any]:
    """An upload that takes parts. NotFound; BadRequest when it has ended."""
    row = get_upload(connection, tenant_id, upload_id, lock=lock)
    status = "expired" if row.status == "pending" and row.expires_at <= now() else row.status
    if status != "pending":
        raise BadRequest(
            f"The upload {upload_id} is {status}; make another one.", param="upload_id", code="upload_finished"
        )
    return row


def get_upload(connection: Connection, tenant_id: int, upload_id: str, *, lock: bool = False) -> Row[Any]:
    """An upload, locked until the transaction ends if it is to `lock`. NotFound."""
    row = None
    if is_id(upload_id, PREFIX):
        rows = sa.select(UPLOADS).where(UPLOADS.c.id == upload_id, UPLOADS.c.tenant_id == tenant_id)
        row = connection.execute(rows.with_for_update() if lock else rows).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no upload {quoted(upload_id)}; POST /v1/uploads makes one.",
            param="upload_id",
            code="upload_not_found",
        )
    return row


def add_part(
    connection: Connection, tenant_id: int, upload_id: str, part_id: str, location: str, size: int
) -> Row[Any]:
    """A part whose bytes are durable; its row.

    BadRequest when they are more than was announced, or all are more than SENT_TIMES that: a client whose answer was
    lost sends a part again. `complete_upload` takes those that are named.
    """
    upload = pending_upload(connection, tenant_id, upload_id, lock=True)
    parts = UPLOAD_PARTS.c.upload_id == upload_id
    count, used = connection.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(UPLOAD_PARTS.c.bytes), 0)).where(parts)
    ).one()
    wrong = None
    if size > upload.bytes:
        wrong = f"The part has {size} bytes, expected at most {upload.bytes}, as were announced."
    elif used + size > SENT_TIMES * upload.bytes:
        wrong = (
            f"With this part the upload has {used + size} bytes, "
            f"expected at most {SENT_TIMES} times the {upload.bytes} announced."
        )
    elif count >= MAX_PARTS:
        wrong = f"The upload has {count} parts, expected at most {MAX_PARTS}; send fewer that are larger."
    if wrong is not None:
        raise BadRequest(wrong, param="data", code="upload_too_large")
    values = {"id": part_id, "upload_id": upload_id, "bytes": size, "location": location, "created_at": now()}
    return connection.execute(UPLOAD_PARTS.insert().values(values).returning(UPLOAD_PARTS)).one()


def ordered_parts(connection: Connection, upload: Row[Any], completion: Completion) -> list[Row[Any]]:
    """The parts in the order in which they make the file. BadRequest when they do not make all of it."""
    part_ids = completion.part_ids
    rows = connection.execute(sa.select(UPLOAD_PARTS).where(UPLOAD_PARTS.c.upload_id == upload.id)).all()
    known = {row.id: row for row in rows}
    for part_id in part_ids:
        if part_id not in known:
            raise BadRequest(
                f"The upload {upload.id} has no part {quoted(part_id)}.", param="part_ids", code="part_not_found"
            )
    if len(set(part_ids)) < len(part_ids):
        raise BadRequest("part_ids names a part twice.", param="part_ids", code="invalid_value")
    parts = [known[part_id] for part_id in part_ids]
    size = sum(part.bytes for part in parts)
    if size != upload.bytes:
        raise BadRequest(
            f"The parts have {size} bytes together, expected {upload.bytes}, as were announced.",
            param="part_ids",
            code="upload_incomplete",
        )
    return parts


def complete_upload(
    connection: Connection,
    tenant_id: int,
    upload_id: str,
    file: dict[str, Any],
    done: Mapping[str, str],
    *,
    most_files: int,
    most_bytes: int,
) -> tuple[Row[Any], Row[Any], list[str]]:
    """The parts were put together: (the upload, its file, where parts can be deleted). As `pending_upload` raises.

    done: `parts_sha256` and `md5` of what was put together.
    """
    upload = pending_upload(connection, tenant_id, upload_id, lock=True)
    lock_tenant(connection, tenant_id)
    end_upload(connection, upload_id, "completed")  # first, so that it does not count as pending too
    check_room(connection, tenant_id, upload.bytes, most_files=most_files, most_bytes=most_bytes)
    at = now()
    expires_at = None if upload.file_expires_s is None else at + upload.file_expires_s
    row = insert_file(
        connection, tenant_id=tenant_id, purpose=upload.purpose, filename=upload.filename, created_at=at,
        expires_at=expires_at, **file,
    )  # fmt: skip
    change = UPLOADS.update().where(UPLOADS.c.id == upload_id).values(file_id=row.id, **done)
    return connection.execute(change.returning(UPLOADS)).one(), row, delete_parts(connection, [upload_id])


def cancel_upload(connection: Connection, tenant_id: int, upload_id: str) -> tuple[Row[Any], list[str]]:
    """(the upload, which takes no more parts, and where parts can be deleted). Once more does nothing."""
    row = get_upload(connection, tenant_id, upload_id, lock=True)
    if row.status == "cancelled":
        return row, []
    pending_upload(connection, tenant_id, upload_id)
    return end_upload(connection, upload_id, "cancelled"), delete_parts(connection, [upload_id])


def end_upload(connection: Connection, upload_id: str, status: str) -> Row[Any]:
    """The upload with its last status."""
    change = UPLOADS.update().where(UPLOADS.c.id == upload_id).values(status=status)
    return connection.execute(change.returning(UPLOADS)).one()


def delete_parts(connection: Connection, upload_ids: Sequence[str]) -> list[str]:
    """Forget the parts of uploads; where their bytes are."""
    deleted = UPLOAD_PARTS.delete().where(UPLOAD_PARTS.c.upload_id.in_(upload_ids))
    return list(connection.execute(deleted.returning(UPLOAD_PARTS.c.location)).scalars())


@dataclass(frozen=True, slots=True)
class UploadRule:
    """A rule of the sweep (db/retention.py): uploads that nobody completed in time, with their parts."""

    files: FileStorage
    what: str = "uploads"
    kept_s: int = 0

    def remove(self, database: Database, before: int, most: int) -> int:
        expired, locations = database.transact(lambda connection: _expire(connection, before, most))
        for location in locations:
            self.files.delete(location)
        return expired


def _expire(connection: Connection, before: int, most: int) -> tuple[int, list[str]]:
    late = sa.select(UPLOADS.c.id).where(UPLOADS.c.status == "pending", UPLOADS.c.expires_at <= before).limit(most)
    ids = list(connection.execute(late.with_for_update(skip_locked=True)).scalars())
    locations = delete_parts(connection, ids) if ids else []
    if ids:
        connection.execute(UPLOADS.update().where(UPLOADS.c.id.in_(ids)).values(status="expired"))
    old = (
        sa.select(UPLOADS.c.id).where(UPLOADS.c.status != "pending", UPLOADS.c.expires_at < before - DAY_S).limit(most)
    )
    gone = UPLOADS.delete().where(UPLOADS.c.id.in_(old.with_for_update(skip_locked=True)))
    files = list(connection.execute(gone.returning(UPLOADS.c.file_id)).scalars())
    forget_deleted(connection, files)
    return len(ids) + len(files), locations
