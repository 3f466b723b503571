"""The JSON that goes on to the engine: only values that its processes can send each other.

They use a format of 64-bit integers and finite floats. JSON also has longer integers, and numbers such as 1e999 that no
float holds. Such a value is refused with its place in the body; in the engine the request would fail.

Design decision: every number of the body is checked, not a list of fields, which would miss those of the engine's next
release. The common case costs one pass in C; only a body at fault is walked in Python.
"""

from __future__ import annotations

import json
import re

from server.core.errors import BadRequest
from server.core.json_text import value_at_fault

# A number beyond 64 bits has at least so many digits.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def engine_json(payload: dict[str, object]) -> bytes:
    """`payload`, which was parsed from JSON, in UTF-8. BadRequest names the field that the engine cannot carry."""
    try:
        body = json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        raise value_at_fault(payload) or BadRequest("The body cannot be passed on to the engine.") from None
    if _LONG_NUMBER.search(body) and (refusal := value_at_fault(payload)) is not None:
        raise refusal
    return body
