"""GET /v1/files/{file_id}/lines on the wire; OpenAI has no such route."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from server.api.schemas.pages import StrictQuery
from server.training.jobs.config import Method

MAX_LINES = 1000


class FileLine(BaseModel):
    """One line. `line` counts from 1, `start` is the place of its first byte.

    text: without its end; bytes that are not UTF-8 are shown as U+FFFD, and of a line that is too long the beginning.
    error: why it is no row for the method; null for rows, and for empty lines, which are skipped. Where all
    lines of the file are empty, the last one has the error that there are no rows.
    """

    line: int
    start: int
    bytes: int
    text: str
    error: str | None


class FileLines(BaseModel):
    """Some lines of a file. `lines_read`: how many were looked at, also with `only=errors`.

    next_line, next_start: what to ask for as `line` and `start` to go on; null at the end, and behind a line that is
    too long.
    """

    object: Literal["list"] = "list"
    data: list[FileLine]
    lines_read: int
    next_line: int | None
    next_start: int | None


class LinesQuery(StrictQuery):
    """Which lines, and which method of training their form is checked for.

    The answer may have fewer than `limit`, for it is bounded in bytes too.
    """

    method: Method = "reinforcement"
    line: int = Field(1, ge=1, lt=2**53, description="next_line of the portion before")
    start: int = Field(0, ge=0, lt=2**53, description="next_start of the portion before: the line's first byte")
    limit: int = Field(20, ge=1, le=MAX_LINES)
    only: Literal["all", "errors"] = "all"
