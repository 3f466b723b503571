"""Reading the form that uploads a file: `purpose`, `file`, `expires_after[anchor]`, `expires_after[seconds]`.

The form is spooled to disk while it arrives, so that fields may stand behind the file and a long file takes no memory.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.core.error_responses import validation_error
from server.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, quoted
from server.core.request_body import body_chunks, media_type
from server.core.request_state import held_body

FORM_OVERHEAD_BYTES = 2**16
MAX_FIELD_BYTES = 2**10
MAX_FILENAME_CHARS = 255
SETTING = "max_file_bytes"
_EXPIRY_FIELDS = {"expires_after[anchor]": "anchor", "expires_after[seconds]": "seconds"}


# Of files that clients upload; those that the server makes have others ("batch_output").
Purpose = Literal["fine-tune", "batch", "evals", "user_data"]


class ExpiresAfter(BaseModel):
    """When a file goes by itself: 1 hour to 30 days after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: StrictInt = Field(ge=3600, le=2_592_000)


class FileFields(BaseModel):
    """The fields of the form beside the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A file about to be stored."""

    fields: FileFields
    filename: str
    source: BinaryIO


def form_docs(*, required: Sequence[str], properties: Mapping[str, Any]) -> dict[str, Any]:
    """A route's body as OpenAPI has it: a form with these parts, each with its schema."""
    schema = {"type": "object", "required": list(required), "properties": dict(properties)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@asynccontextmanager
async def read_file_upload(request: Request, max_bytes: int) -> AsyncIterator[FileUpload]:
    """The upload in the body of `request`, for as long as the block runs. Raises ApiError (400, 413, 415)."""
    async with _form(request, max_bytes) as items:
        yield _upload(items, max_bytes)


@asynccontextmanager
async def read_part(request: Request, max_bytes: int) -> AsyncIterator[BinaryIO]:
    """The part `data` in the form of `request`, for as long as the block runs. Raises ApiError (400, 413, 415)."""
    async with _form(request, max_bytes) as items:
        if len(items) != 1 or items[0][0] != "data" or not isinstance(part := items[0][1], UploadFile):
            raise BadRequest(
                "expected a form with the part 'data' and nothing else, as a part with a filename",
                param="data",
                code="invalid_form",
            )
        _check_size(part, max_bytes, "data")
        yield part.file


@asynccontextmanager
async def _form(request: Request, max_bytes: int) -> AsyncIterator[list[tuple[str, UploadFile | str]]]:
    kind = media_type(request.headers)
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            f"The content type is {quoted(kind)}, expected multipart/form-data.", param="content-type"
        )
    held_body(request.scope).stream()
    chunks = body_chunks(request.headers, request.receive, max_bytes + FORM_OVERHEAD_BYTES, SETTING)
    parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=4, max_part_size=MAX_FIELD_BYTES)
    try:
        form = await parser.parse()
    except (MultiPartException, UnicodeError, LookupError) as error:
        raise BadRequest(f"The form cannot be read: {error}", code="invalid_form") from error
    try:
        yield list(form.multi_items())
    finally:
        await form.close()


def _upload(items: list[tuple[str, UploadFile | str]], max_bytes: int) -> FileUpload:
    fields: dict[str, Any] = {}
    file: UploadFile | None = None
    for key, value in items:
        if key == "file" and isinstance(value, UploadFile):
            file = value
            continue
        if key == "file" or isinstance(value, UploadFile):
            raise BadRequest(
                f"{key}: expected a file under the name 'file' and no other, as a part with a filename",
                param=key,
                code="invalid_form",
            )
        if key in _EXPIRY_FIELDS:
            fields.setdefault("expires_after", {})[_EXPIRY_FIELDS[key]] = _as_number(value)
        else:
            fields[key] = value
    try:
        parsed = FileFields.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False)) from None
    if file is None:
        raise BadRequest("the form has no file 'file'", param="file", code="missing_required_parameter")
    _check_size(file, max_bytes, "file")
    return FileUpload(parsed, printable_filename(file.filename), file.file)


def _as_number(text: str) -> int | str:
    """What a form, which has no numbers, has written out."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else text


def _check_size(file: UploadFile, max_bytes: int, param: str) -> None:
    size = file.size or 0
    if size > max_bytes:
        raise PayloadTooLarge(
            f"The file has {size} bytes, expected at most {max_bytes} (the server's setting {SETTING}).", param=param
        )
    if size == 0:
        raise BadRequest("The file is empty, expected at least one byte.", param=param, code="invalid_value")


def printable_filename(name: str | None) -> str:
    """Printable, and short enough for its column; it is shown and never opened."""
    kept = "".join(c for c in name or "" if not unicodedata.category(c).startswith("C"))
    return kept[-MAX_FILENAME_CHARS:] or "file"
