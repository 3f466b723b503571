"""The JSON that goes on to the engine: only values that its processes can send each other.

They use a format of 64-bit integers, finite floats and Unicode text. JSON also has longer integers, Python's parser
takes NaN, and "\\ud800" is half of a character. Such a value is refused with its place in the body; in the engine the
request would fail.

Design decision: every number and string of the body is checked, not a list of fields, which would miss those of the
engine's next release. The common case costs one pass in C; only a body at fault is walked in Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import isfinite

from server.core.errors import BadRequest, quoted

INT64_MIN, UINT64_MAX = -(2**63), 2**64 - 1
# A number beyond 64 bits has at least so many digits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def engine_json(payload: dict[str, object]) -> bytes:
    """`payload` in UTF-8. BadRequest names the field that is nested too deeply, or that the engine cannot carry."""
    try:
        body = json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply.") from error
    except ValueError:  # NaN or half of a surrogate pair
        raise _refusal(payload) from None
    if _LONG_NUMBER.search(body) and (refusal := _refusal(payload)).param is not None:
        raise refusal
    return body


def _refusal(payload: object) -> BadRequest:
    for path, value in _leaves(payload):
        if (wrong := _why_not(value)) is not None:
            return BadRequest(f"{path}: {wrong}", param=path, code="invalid_value")
    return BadRequest("The body cannot be passed on to the engine.")


def _why_not(value: object) -> str | None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            return f"holds {half}, half of a surrogate pair, which is no text. Send whole characters"
    if isinstance(value, float) and not isfinite(value):
        return f"is {value}, expected a finite number"
    if isinstance(value, int) and not INT64_MIN <= value <= UINT64_MAX:
        return f"is {quoted(value)}, expected a number of at most 64 bits"
    return None


def _leaves(payload: object) -> Iterator[tuple[str, object]]:
    """Every number and text within, keys of objects included, with its place, as in "messages[0].content"."""
    pending: list[tuple[str, object]] = [("", payload)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            for key, inner in reversed(value.items()):
                place = f"{path}.{key}" if path else key
                pending.append((place, inner))
                pending.append((place, key))
        elif isinstance(value, list):
            pending.extend((f"{path}[{index}]", inner) for index, inner in reversed([*enumerate(value)]))
        else:
            yield path or "body", value
