"""JSON from outside: parsed, or refused with one sentence that says what is wrong and where.

Bodies, lines of files and fields of forms are all read here, so that each of them takes the same and says the same.

Design decision: pydantic's parser, jiter, and not Python's, which also reads NaN and half of a surrogate pair, takes
the last of a key's values without a word, gives up at a depth that depends on its caller, and explains itself in words
of its own settings. What both of them read is read again by Python's when it is at fault: then the value at fault is
known by its field, and not by its column alone.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any

from jiter import from_json

from server.core.errors import BadRequest, quoted, short

MAX_DEPTH = 200  # the parser's own
INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1
TOO_DEEP = f"is nested too deeply: more than {MAX_DEPTH} arrays and objects within one another"

_SAID = re.compile(r"(?P<what>.*) at line (?P<line>\d+) column (?P<column>\d+)", re.DOTALL)
_RECURSION = "recursion limit exceeded"
_TWICE = "Detected duplicate key "
_CLEARER = {"expected ident": "expected value"}
# Enough to be longer than any number that is taken, and to be shown; also of a key.
_SHOWN_CHARS = 100
# In which text that is all brackets is found to be too deep.
_BEGINNING_BYTES = 2**16


class InvalidJson(BadRequest):
    """Why a text cannot be read as JSON. As an answer it is about the body; `said_of` says it of something else.

    field: the place of the value at fault, as "messages[0].content"; None where it is the text itself, which has the
    fault at `line` and `column`, both from 1.
    """

    def __init__(self, what: str, *, field: str | None = None, line: int = 1, column: int = 1) -> None:
        self.what, self.field, self.line, self.column = what, field, line, column
        super().__init__(
            self.said_of("The body"), param=field, code="invalid_json" if field is None else "invalid_value"
        )

    def said_of(self, subject: str, *, is_line: bool = False) -> str:
        """The sentence about `subject`, which may be one line of a file: its column is its place then."""
        if self.field is not None:
            return f"{self.field}: {self.what}"
        place = f"column {self.column}" if is_line else f"line {self.line}, column {self.column}"
        return f"{subject} {self.what} ({place})."


def parse_json(text: bytes) -> Any:
    """The value of a JSON text in UTF-8, which a byte order mark may begin. InvalidJson, also for a key given twice."""
    text = text.removeprefix(codecs.BOM_UTF8)
    try:
        return from_json(text, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        raise _refusal(text, str(error)) from None


def check_depth(text: bytes) -> None:
    """InvalidJson when the beginning of `text`, which is too long to be parsed, is nested too deeply."""
    try:
        from_json(text[:_BEGINNING_BYTES], partial_mode=True, cache_mode="none")
    except ValueError as error:
        if str(error).startswith(_RECURSION):
            raise _refusal(text, str(error)) from None


def value_at_fault(value: dict[str, Any] | list[Any]) -> InvalidJson | None:
    """The first value within that is no JSON, no text, or a number beyond 64 bits; None when there is none."""
    place: list[str | int] = []
    for leaf in _leaves(value, place):
        if (wrong := _why_not(leaf)) is not None:
            return InvalidJson(wrong, field=_field(place))
    return None


def _refusal(text: bytes, message: str) -> InvalidJson:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        before = text[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        return InvalidJson("is not text in UTF-8", line=line, column=column)
    said = _SAID.fullmatch(message)
    what, line, column = (message, 1, 1) if said is None else (said["what"], int(said["line"]), int(said["column"]))
    if what == _RECURSION:
        return InvalidJson(TOO_DEEP, line=line, column=column)
    if what.startswith(_TWICE):
        return InvalidJson(
            f"has {what.removeprefix(_TWICE):.{_SHOWN_CHARS}} twice in one object", line=line, column=column
        )
    return _by_field(text) or InvalidJson(f"is not valid JSON: {_CLEARER.get(what, what)}", line=line, column=column)


def _by_field(text: bytes) -> InvalidJson | None:
    try:
        value = json.loads(text, parse_int=lambda digits: int(digits[:_SHOWN_CHARS]))
    except (ValueError, RecursionError):
        return None
    return value_at_fault(value) if isinstance(value, dict | list) else None


def _why_not(value: object) -> str | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            return f"holds {half}, half of a surrogate pair, which is no text. Send whole characters"
    if isinstance(value, float) and not isfinite(value):
        return f"is {json.dumps(value)}, expected a finite number"
    if isinstance(value, int) and not INT64_MIN <= value <= UINT64_MAX:
        return f"is {quoted(value)}, expected a number of at most 64 bits"
    return None


def _leaves(value: dict[str, Any] | list[Any], place: list[str | int]) -> Iterator[object]:
    """Every number and text within, keys of objects included. `place` has the keys and numbers that lead to it."""
    walked = [_members(value)]
    while walked:
        del place[len(walked) - 1 :]
        member = next(walked[-1], None)
        if member is None:
            walked.pop()
            continue
        part, inner = member
        place.append(part)
        if isinstance(part, str):
            yield part
        if isinstance(inner, dict | list):
            walked.append(_members(inner))
        else:
            yield inner


def _members(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str | int, Any]]:
    return iter(value.items()) if isinstance(value, dict) else enumerate(value)


def _field(place: list[str | int]) -> str:
    """`place` as in "messages[0].content"."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{short(part)}" for part in place)
    return "".join(parts).removeprefix(".")
