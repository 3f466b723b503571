"""/v1/files/{file_id}/lines: the lines of a file, each with what a training job would say against it.

A job ends at the first line that it cannot use. Here all such lines are found before a job is made, by the function
with which its worker reads rows, and of a file without rows it is said at its last line. What else only the whole file
or the grader shows (too many rows, a field that the grader needs) is left to the job.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from server.api.deps import GatewayDep, PrincipalDep, TrainingDep
from server.api.own_route import OwnRoute
from server.api.schemas.file_lines import FileLine, FileLines, LinesQuery
from server.core.errors import BadRequest
from server.training.files.lines import MAX_LINE_BYTES, Line, is_empty, read_portion
from server.training.files.rows import get_file
from server.training.jobs.config import Method
from server.training.worker.chat_format import FormatError
from server.training.worker.dataset import DataLimits, read_row

SHOWN_OF_TOO_LONG = 2000
NO_ROWS = "the file has no rows, all of its lines are empty; expected one JSON object per line"
router = APIRouter(prefix="/v1/files", tags=["files"], route_class=OwnRoute)


@router.get("/{file_id}/lines", response_model=FileLines)
def lines(
    file_id: str,
    gateway: GatewayDep,
    training: TrainingDep,
    principal: PrincipalDep,
    query: Annotated[LinesQuery, Query()],
) -> Response:
    """Some lines of a file, each with why it cannot be trained on."""
    with gateway.database.read() as connection:
        row = get_file(connection, principal.tenant.id, file_id)
    start = min(query.start, row.bytes)
    with training.files.opened_at(row.location, max(start - 1, 0)) as file:
        is_place = start == 0 if query.line == 1 else start > 0 and file.read(1) == b"\n"
        read = list(read_portion(file, query.line, query.start, query.limit)) if is_place else []
    if not is_place:
        raise BadRequest(
            f"line is {query.line} and start is {query.start}, which do not belong together: expected next_line and "
            "next_start of the portion before, or neither",
            param="start",
            code="invalid_value",
        )
    shown = [_shown(line, query.method) for line in read]
    end = read[-1].start + len(read[-1].data) if read else row.bytes
    more = end < row.bytes and not read[-1].is_too_long
    if not more and read and all(line.is_empty for line in read):
        with training.files.opened_at(row.location, 0) as file:
            if is_empty(file, start):
                shown[-1].error = NO_ROWS
    page = FileLines(
        data=[line for line in shown if query.only == "all" or line.error is not None],
        lines_read=len(read),
        next_line=read[-1].number + 1 if more else None,
        next_start=end if more else None,
    )
    # As JSON here, in a thread, because a page may have megabytes.
    return Response(page.model_dump_json(), media_type="application/json")


def _shown(line: Line, method: Method) -> FileLine:
    data = line.data[:SHOWN_OF_TOO_LONG] if line.is_too_long else line.data.rstrip(b"\r\n")
    text = data.decode("utf-8", "replace")
    return FileLine(line=line.number, start=line.start, bytes=len(line.data), text=text, error=_error(line, method))


def _error(line: Line, method: Method) -> str | None:
    try:
        if line.is_too_long:
            raise FormatError("it is too long, and nothing behind it was read", f"at most {MAX_LINE_BYTES} bytes")
        if not line.is_empty:
            read_row(line.number, line.data, method, DataLimits())
    except FormatError as error:
        return str(error)
    return None
