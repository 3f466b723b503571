"""Reading the form that uploads a file: `purpose`, `file`, `expires_after[anchor]`, `expires_after[seconds]`.

The form is spooled to disk while it arrives, so that fields may stand behind the file and a long file takes no memory.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import structlog
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from python_multipart.multipart import DEFAULT_MAX_HEADER_SIZE
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from server.core.error_responses import validation_error
from server.core.errors import BadRequest, PayloadTooLarge, Unavailable, UnsupportedMediaType, quoted
from server.core.file_room import FORM_BYTES
from server.core.request_body import body_chunks, media_type
from server.core.request_state import held_body

MAX_FIELD_BYTES = 2**10
MAX_FILENAME_CHARS = 255
JOINERS = "\u200c\u200d"  # of letters and of emoji, invisible and part of how names are written
SETTING = "max_file_bytes"
MAX_FIELDS = 20
_EXPIRY_FIELDS = {"expires_after[anchor]": "anchor", "expires_after[seconds]": "seconds"}
_KNOWN_FIELDS = ("purpose", *_EXPIRY_FIELDS, "file")


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
    """The upload in the body of `request`, for as long as the block runs. Raises ApiError (400, 413, 415, 503)."""
    async with _form(request, max_bytes, _KNOWN_FIELDS) as items:
        _check_fields(items, _KNOWN_FIELDS)
        yield _upload(items, max_bytes)


@asynccontextmanager
async def read_part(request: Request, max_bytes: int) -> AsyncIterator[BinaryIO]:
    """The part `data` in the form of `request`, for as long as the block runs. Raises ApiError (400, 413, 415, 503)."""
    async with _form(request, max_bytes, ["data"]) as items:
        if len(items) != 1 or items[0][0] != "data" or not isinstance(part := items[0][1], UploadFile):
            raise BadRequest(
                "expected a form with the part 'data' and nothing else, as a part with a filename",
                param="data",
                code="invalid_form",
            )
        _check_size(part, max_bytes, "data")
        yield part.file


@asynccontextmanager
async def _form(
    request: Request, max_bytes: int, known: Sequence[str]
) -> AsyncIterator[list[tuple[str, UploadFile | str]]]:
    kind = media_type(request.headers)
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            f"The content type is {quoted(kind)}, expected multipart/form-data.", param="content-type"
        )
    held_body(request.scope).spool()
    chunks = body_chunks(request.headers, request.receive, max_bytes + FORM_BYTES, SETTING)
    # More fields than are known, to name those that are not.
    parser = MultiPartParser(request.headers, chunks, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        message = f"The form cannot be read: {_why(error)} Its fields are {', '.join(known)}, each once."
        raise BadRequest(message, code="invalid_form") from error
    except (UnicodeError, LookupError) as error:
        raise BadRequest(f"The form cannot be read: {error}", code="invalid_form") from error
    except OSError as error:
        structlog.get_logger().warning("no room for a form", directory=tempfile.gettempdir(), reason=str(error))
        raise Unavailable(
            "The server's disk does not take the file while it arrives; try again in a moment. If it goes on, have the "
            "operator look at the server's log, which has the reason.",
            code="storage_unavailable",
        ) from error
    try:
        yield list(form.multi_items())
    finally:
        await form.close()


def _why(error: MultiPartException) -> str:
    """Starlette's words, or those of its parser where it has but few."""
    cause = error.__cause__
    if cause is None:
        return error.message
    if str(cause) == "Maximum header size exceeded":
        return (
            f"A part has a header line of more than {DEFAULT_MAX_HEADER_SIZE} bytes; the file's name stands there, of "
            f"which at most {MAX_FILENAME_CHARS} characters are taken."
        )
    return f"{error.message} {cause}."


def _check_fields(items: list[tuple[str, UploadFile | str]], known: Sequence[str]) -> None:
    """BadRequest for a field that is not one of the `known`, or comes more than once."""
    for key, times in Counter(key for key, _ in items).items():
        if key not in known:
            raise BadRequest(
                f"The form has the unknown field {quoted(key)}; known are {', '.join(known)}.",
                param=key,
                code="unknown_parameter",
            )
        if times > 1:
            raise BadRequest(
                f"The form has the field {quoted(key)} {times} times, expected it once.", param=key, code="invalid_form"
            )


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
    return FileUpload(parsed, checked_filename(file.filename, "file") if file.filename else "file", file.file)


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


def checked_filename(name: str, param: str) -> str:
    """`name` itself. BadRequest when it is too long for its column, or has what cannot be shown; it is never opened."""
    if len(name) > MAX_FILENAME_CHARS:
        raise BadRequest(
            f"The file's name has {len(name)} characters, expected at most {MAX_FILENAME_CHARS}.",
            param=param,
            code="invalid_value",
        )
    for place, character in enumerate(name):
        if unicodedata.category(character).startswith("C") and character not in JOINERS:
            shown = f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
            raise BadRequest(
                f"The file's name is {quoted(name)}, whose character {place + 1} is {shown}; expected printable "
                "characters alone.",
                param=param,
                code="invalid_value",
            )
    return name
