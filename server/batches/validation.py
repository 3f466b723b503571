"""The check of a batch's input file before any of it is answered: every line, its request, and whether its adapter is
there.

Design decision: a model that is neither this server's nor an adapter fails the batch, as at OpenAI, and not its lines
one by one: a file that was written for another server is told at once. An adapter that is deleted later fails its
lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from adapters.vector.errors import AdapterError
from server.batches.lines import LineError, RequestLine, lines_of, parse_line, some
from server.core.errors import ApiError, BadRequest
from server.core.principal import Principal
from server.inference.early_check import EarlyCheck

MAX_ERRORS = 100
MAX_REMEMBERED = 10_000
ID_DIGEST_BYTES = 16


@dataclass(slots=True)
class Checked:
    """What a file holds: the number of its requests, the model of the first, and what is wrong, as OpenAI tells it."""

    total: int = 0
    model: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, error: LineError) -> None:
        """One error more."""
        self.errors.append(error.to_wire())


async def check_file(
    chunks: Iterable[bytes], endpoint: str, most_lines: int, check: EarlyCheck, principal: Principal
) -> Checked:
    """Check all lines, up to MAX_ERRORS errors. Raises Unavailable when storage or database do not answer."""
    checked = Checked()
    parsed = _parsed(chunks, endpoint, check, principal)
    known: set[tuple[Any, Any]] = set()
    while len(checked.errors) < MAX_ERRORS:
        lines = await run_in_threadpool(some, parsed, lambda line: line.size)
        if not lines:
            break
        for line in lines:
            if isinstance(line, LineError):
                checked.refuse(line)
                continue
            checked.total += 1
            if checked.model is None and isinstance(model := line.body.get("model"), str):
                checked.model = model[:255]
            if checked.total > most_lines:
                checked.errors = [
                    _as_a_whole(
                        "too_many_requests",
                        f"The file has more than {most_lines} requests "
                        "(the server's setting max_batch_lines); send them as several batches.",
                    )
                ]
                return checked
            if (error := await _adapter_error(line, check, principal, known)) is not None:
                checked.refuse(error)
    if not checked.total and not checked.errors:
        checked.errors.append(_as_a_whole("empty_file", "The file has no requests."))
    del checked.errors[MAX_ERRORS:]
    return checked


def _as_a_whole(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "line": None, "message": message, "param": "input_file_id"}


def _parsed(
    chunks: Iterable[bytes], endpoint: str, check: EarlyCheck, principal: Principal
) -> Iterator[RequestLine | LineError]:
    """The lines, of which none has the custom_id of another, and with requests that are not refused by their fields."""
    digests: set[bytes] = set()
    for number, text in lines_of(chunks):
        try:
            line = parse_line(number, text, endpoint)
        except LineError as error:
            yield error
            continue
        digest = hashlib.blake2b(line.custom_id.encode(), digest_size=ID_DIGEST_BYTES).digest()
        if digest in digests:
            yield LineError(
                number,
                "duplicate_custom_id",
                f"The custom_id {line.custom_id[:80]!r} stands in an earlier line too; each must be unique.",
                "custom_id",
            )
            continue
        digests.add(digest)
        try:
            check.check_fields(line.body, endpoint, principal)
        except BadRequest as error:
            yield _of_body(line, error)
            continue
        yield line


async def _adapter_error(
    line: RequestLine, check: EarlyCheck, principal: Principal, known: set[tuple[Any, Any]]
) -> LineError | None:
    """Why the line's adapter or model cannot be used; `known` are names that can."""
    names = (line.body.get("model"), line.body.get("adapter"))
    by_name = all(isinstance(name, str | None) for name in names)
    if by_name and names in known:
        return None
    try:
        await check.check_adapter(line.body, principal)
    except ApiError as error:
        if error.status >= 500:
            raise
        return _of_body(line, error)
    except AdapterError as error:
        return LineError(line.number, "invalid_adapter", error.message, f"body.{error.field}")
    if by_name and len(known) < MAX_REMEMBERED:
        known.add(names)
    return None


def _of_body(line: RequestLine, error: ApiError) -> LineError:
    return LineError(line.number, error.code, error.message, error.param and f"body.{error.param}")
