"""The lines of a batch's input file: read as a stream, parsed, and refused with a code and a sentence.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}

Memory is bounded by the longest line. Empty lines are no requests; they count as lines in messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from server.core.errors import quoted
from server.core.json_text import InvalidJson, check_depth, parse_json
from server.core.json_values import most_values, too_many

MAX_LINE_BYTES = 16 * 2**20
MAX_LINE_VALUES = 200_000
MAX_ID_CHARS = 512
LINES_AT_ONCE, BYTES_AT_ONCE = 64, 2**20
_FIELDS = frozenset({"custom_id", "method", "url", "body"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestLine:
    """One request: the number of its line, from 1, and what stands there."""

    number: int
    custom_id: str
    body: dict[str, Any]
    size: int  # bytes of the line


class LineError(Exception):
    """Why a line is no request, as OpenAI tells it: a code, a sentence, and the field at fault."""

    size = 0  # nothing of the line is kept

    def __init__(self, number: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.number, self.code, self.message, self.param = number, code, message, param

    def to_wire(self) -> dict[str, Any]:
        """An item of `errors.data`."""
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"code": self.code, "line": self.number, "message": message, "param": self.param}


def lines_of(chunks: Iterable[bytes], longest: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes | None]]:
    """(number, text) of every line that is not empty; None for the text of one with more than `longest` bytes."""
    number, held, too_long = 1, bytearray(), False
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            held += part
            if too_long or len(held) > longest:
                yield number, None
            elif held.strip():
                yield number, bytes(held)
            number, held, too_long = number + 1, bytearray(), False
        held += rest
        if len(held) > longest:
            held, too_long = bytearray(), True
    if too_long or len(held) > longest:
        yield number, None
    elif held.strip():
        yield number, bytes(held)


def without(lines: Iterable[tuple[int, bytes | None]], answered: Iterator[int]) -> Iterator[tuple[int, bytes | None]]:
    """Those `lines` whose numbers are not among the `answered`; both come in their order."""
    next_answered = next(answered, None)
    for number, text in lines:
        while next_answered is not None and next_answered < number:
            next_answered = next(answered, None)
        if number != next_answered:
            yield number, text


def some(items: Iterator[T], size_of: Callable[[T], int]) -> list[T]:
    """The next of `items`: LINES_AT_ONCE, or fewer when they have BYTES_AT_ONCE together. Empty at the end."""
    taken: list[T] = []
    total = 0
    while len(taken) < LINES_AT_ONCE and total < BYTES_AT_ONCE:
        item = next(items, None)
        if item is None:
            break
        taken.append(item)
        total += size_of(item)
    return taken


def parse_line(number: int, text: bytes | None, endpoint: str) -> RequestLine:
    """The request of a line of a batch for `endpoint`. Raises LineError."""
    if text is None:
        raise LineError(
            number, "line_too_long", f"This line has more than {MAX_LINE_BYTES} bytes, as many as a line may have."
        )
    try:
        if (values := most_values(text)) > MAX_LINE_VALUES:
            check_depth(text)
            raise LineError(number, "line_too_long", f"This line {too_many(values, MAX_LINE_VALUES)}.")
        line = parse_json(text)
    except InvalidJson as error:
        said = error.said_of("This line", is_line=True)
        raise LineError(number, "invalid_json_line", said, error.param) from None
    if not isinstance(line, dict):
        raise LineError(number, "invalid_json_line", "This line is no JSON object.")
    custom_id = line.get("custom_id")
    if custom_id is None:
        raise LineError(number, "missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_ID_CHARS:
        raise LineError(
            number,
            "invalid_custom_id",
            f"custom_id is {quoted(custom_id)}, expected a text of 1 to {MAX_ID_CHARS} characters.",
            "custom_id",
        )
    if line.get("method") != "POST":
        raise LineError(number, "invalid_method", f"method is {quoted(line.get('method'))}, expected 'POST'.", "method")
    if line.get("url") != endpoint:
        raise LineError(
            number, "mismatched_url", f"url is {quoted(line.get('url'))}, and the batch is for {endpoint}.", "url"
        )
    unknown = sorted(line.keys() - _FIELDS)
    if unknown:
        raise LineError(
            number,
            "unknown_parameter",
            f"Unknown parameter: {quoted(unknown[0])}; a line has custom_id, method, url and body.",
            unknown[0][:MAX_ID_CHARS],
        )
    body = line.get("body")
    if not isinstance(body, dict):
        raise LineError(number, "invalid_body", f"body is {quoted(body)}, expected a JSON object.", "body")
    for field in ("stream", "background"):
        if body.get(field):
            raise LineError(
                number, "invalid_body", f"body.{field} is set, and a batch has whole answers; leave it out.",
                f"body.{field}",
            )  # fmt: skip
    return RequestLine(number, custom_id, body, len(text))
