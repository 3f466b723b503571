"""/v1/uploads on the wire, in OpenAI's shape."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy.engine import Row

from server.api.bodies.file_upload import MAX_FILENAME_CHARS, ExpiresAfter, Purpose
from server.api.schemas.files import FileObject
from server.training.files.uploads import MAX_PARTS

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?: *; *{_TOKEN}=(?:{_TOKEN}|\"[ !#-~]*\"))*")


def _is_media_type(text: str) -> str:
    if not _MEDIA_TYPE.fullmatch(text):
        raise ValueError("expected a media type, such as application/jsonl or text/plain; charset=utf-8")
    return text


MediaType = Annotated[str, Field(max_length=255), AfterValidator(_is_media_type)]


class UploadCreate(BaseModel):
    """A file that is about to come in parts, of so many bytes together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: StrictInt = Field(ge=1, le=2**53)
    filename: str = Field(min_length=1, json_schema_extra={"maxLength": MAX_FILENAME_CHARS})
    mime_type: MediaType
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadComplete(BaseModel):
    """The parts in their order. `md5`: of the whole file, in hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part_ids: list[str] = Field(min_length=1, max_length=MAX_PARTS)
    md5: str | None = Field(None, pattern="^[0-9a-fA-F]{32}$")


class UploadObject(BaseModel):
    """One upload. `file` is there once it is completed."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None

    @classmethod
    def of(cls, row: Row[Any], file: Row[Any] | None = None) -> UploadObject:
        names = ("id", "bytes", "created_at", "expires_at", "filename", "purpose", "status")
        fields: dict[str, Any] = {name: getattr(row, name) for name in names}
        return cls(**fields, file=None if file is None else FileObject.of(file))


class UploadPart(BaseModel):
    """One part."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
