"""/v1/files on the wire, in OpenAI's shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.engine import Row

from server.api.bodies.file_upload import Purpose
from server.api.schemas.pages import After, IdPage, StrictQuery

# Of uploaded files, and of those that jobs and batches make.
KnownPurpose = Literal[Purpose, "fine-tune-results", "batch_output"]


class FileObject(BaseModel):
    """One file. `sha256` (ours) is of its bytes."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    sha256: str

    @classmethod
    def of(cls, row: Row[Any]) -> FileObject:
        names = ("id", "bytes", "created_at", "expires_at", "filename", "purpose", "sha256")
        return cls(**{name: getattr(row, name) for name in names})


class FileList(IdPage):
    """A page of files; ask for the next one with `after` = `last_id`."""

    data: list[FileObject]


class FileDeleted(BaseModel):
    """What was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FilesQuery(StrictQuery):
    """Which files, in the order of the time they were made."""

    after: After = None
    limit: int = Field(10_000, ge=1, le=10_000)
    order: Literal["asc", "desc"] = "desc"
    purpose: KnownPurpose | None = None
