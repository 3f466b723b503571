"""The rows of uploaded files. A tenant sees its own, as long as they are neither deleted nor expired.

A file that an unfinished job needs cannot be deleted and does not expire, so a job that moves to another worker finds
its data. That of an unfinished batch does not expire either; it can be deleted, which ends the batch. Another tenant's
file is answered like a missing one.

Functions of a connection; the bytes are in storage.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import check_after, is_id
from server.db.batch_tables import BATCHES, UNFINISHED
from server.db.file_references import forget_deleted
from server.db.training_tables import FILES, JOBS
from server.db.upload_tables import UPLOADS
from server.training.states import ACTIVE

PREFIX = "file-"
MAX_EXPIRED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class FilePage:
    """A page of a listing; `has_more`: whether another one follows."""

    rows: Sequence[Row[Any]]
    has_more: bool


def location_of(tenant_id: int, file_id: str) -> str:
    """The place of a new file in the storage."""
    return f"{tenant_id}/{file_id}"


def insert_file(connection: Connection, **values: Any) -> Row[Any]:
    """Add a row; the row as stored."""
    return connection.execute(FILES.insert().values(**values).returning(FILES)).one()


def check_room(connection: Connection, tenant_id: int, size: int, *, most_files: int, most_bytes: int) -> None:
    """BadRequest when a tenant may not have another file of `size` bytes. Result files of its jobs, and
    uploads in parts that are not completed, count too."""
    visible = _visible(tenant_id).subquery()
    count = sa.func.count(visible.c.id)
    files, used = connection.execute(sa.select(count, sa.func.coalesce(sa.func.sum(visible.c.bytes), 0))).one()
    coming = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(UPLOADS.c.bytes), 0)).where(
        UPLOADS.c.tenant_id == tenant_id, UPLOADS.c.status == "pending", UPLOADS.c.expires_at > now()
    )
    coming_files, coming_bytes = connection.execute(coming).one()
    files, used = files + coming_files, used + coming_bytes
    if files >= most_files:
        raise BadRequest(
            f"There are {files} files, expected at most {most_files} (the server's setting max_tenant_files); delete "
            "some with DELETE /v1/files/{file_id}.",
            param="file",
            code="file_limit_reached",
        )
    if used + size > most_bytes:
        raise BadRequest(
            f"With this file there would be {used + size} bytes in files, expected at most {most_bytes} (the server's "
            "setting max_tenant_file_bytes); delete some with DELETE /v1/files/{file_id}.",
            param="file",
            code="file_limit_reached",
        )


def get_file(connection: Connection, tenant_id: int, file_id: str, *, param: str = "file_id") -> Row[Any]:
    """The row of a file, or NotFound."""
    row = None
    if is_id(file_id, PREFIX):
        row = connection.execute(_visible(tenant_id).where(FILES.c.id == file_id)).one_or_none()
    if row is None:
        raise _not_found(file_id, param)
    return row


def list_files(
    connection: Connection,
    tenant_id: int,
    *,
    after: str | None,
    limit: int,
    purpose: str | None,
    order: Literal["asc", "desc"],
) -> FilePage:
    """A page of the tenant's files by creation time, after the id `after`."""
    rows = _visible(tenant_id)
    if purpose is not None:
        rows = rows.where(FILES.c.purpose == purpose)
    if after is not None:
        check_after(after, PREFIX, "a file")
        rows = rows.where(FILES.c.id > after if order == "asc" else FILES.c.id < after)
    rows = rows.order_by(FILES.c.id if order == "asc" else FILES.c.id.desc()).limit(limit + 1)
    found = connection.execute(rows).all()
    return FilePage(found[:limit], len(found) > limit)


def file_for_job(connection: Connection, tenant_id: int, file_id: str, param: str) -> Row[Any]:
    """The row of a file to train on, as `file_to_use`."""
    return file_to_use(connection, tenant_id, file_id, param, "fine-tune")


def file_to_use(connection: Connection, tenant_id: int, file_id: str, param: str, purpose: str) -> Row[Any]:
    """The row of a file, locked against deletion until the transaction ends. BadRequest if unusable."""
    row = None
    if is_id(file_id, PREFIX):
        rows = _visible(tenant_id).where(FILES.c.id == file_id)
        row = connection.execute(rows.with_for_update(read=True)).one_or_none()
    if row is None:
        raise BadRequest(
            f"{param}: there is no file {quoted(file_id)}; upload one with the purpose {purpose!r} to /v1/files.",
            param=param,
            code="file_not_found",
        )
    if row.purpose != purpose:
        raise BadRequest(
            f"{param}: the file {file_id} has the purpose {quoted(row.purpose)}, expected {purpose!r}.",
            param=param,
            code="invalid_file_purpose",
        )
    return row


def delete_file(connection: Connection, tenant_id: int, file_id: str) -> Row[Any]:
    """Delete a file, its row only where nothing refers to it; its bytes may be removed after the transaction.

    NotFound; BadRequest if it is in use.
    """
    row = None
    if is_id(file_id, PREFIX):
        row = connection.execute(_visible(tenant_id).where(FILES.c.id == file_id).with_for_update()).one_or_none()
    if row is None:
        raise _not_found(file_id, "file_id")
    # A second statement, because it sees jobs that were created while this one waited for the row.
    job = connection.execute(sa.select(JOBS.c.id).where(_used_by(file_id)).limit(1)).scalar()
    if job is not None:
        raise BadRequest(
            f"The file {file_id} is used by the job {job}; wait until it has finished, or cancel it first.",
            param="file_id",
            code="file_in_use",
        )
    connection.execute(FILES.update().where(FILES.c.id == file_id).values(deleted_at=now()))
    forget_deleted(connection, [file_id])
    return row


def delete_expired(connection: Connection, before: int, most: int) -> list[str]:
    """Delete at most so many files that have expired, or are from before a time; returns their locations. Rows go only
    where nothing refers to them."""
    old = FILES.alias()
    # Each by its own index: SQLite uses none for either of two.
    times = (
        sa.select(old.c.id).where(is_old, old.c.deleted_at.is_(None))
        for is_old in (old.c.expires_at <= now(), old.c.created_at < before)
    )
    expired = (
        sa.select(FILES.c.id)
        .where(FILES.c.id.in_(sa.union_all(*times)), FILES.c.deleted_at.is_(None), ~_in_use())
        .limit(min(most, MAX_EXPIRED_AT_ONCE))
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(expired).scalars())
    deleted = FILES.update().where(FILES.c.id.in_(ids)).values(deleted_at=now())
    locations = list(connection.execute(deleted.returning(FILES.c.location)).scalars()) if ids else []
    forget_deleted(connection, ids)
    return locations


def _visible(tenant_id: int) -> sa.Select[Any]:
    kept = sa.or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > now(), _in_use())
    return sa.select(FILES).where(FILES.c.tenant_id == tenant_id, FILES.c.deleted_at.is_(None), kept)


def _in_use() -> sa.ColumnElement[bool]:
    batch = sa.and_(BATCHES.c.input_file_id == FILES.c.id, BATCHES.c.status.in_(UNFINISHED))
    return sa.or_(sa.exists().where(_used_by(FILES.c.id)), sa.exists().where(batch))


def _used_by(file_id: Any) -> sa.ColumnElement[bool]:
    used = sa.or_(JOBS.c.training_file == file_id, JOBS.c.validation_file == file_id)
    return sa.and_(used, JOBS.c.status.in_(ACTIVE))


def _not_found(file_id: str, param: str) -> NotFound:
    return NotFound(
        f"There is no file {quoted(file_id)}; GET /v1/files lists those there are.", param=param, code="file_not_found"
    )
