"""Ids, and numbers of rows, that tell nothing of what others do.

Ids of files, jobs and checkpoints begin with the time, so they sort by it and a listing can continue after any id. The
rest is random, so they cannot be guessed.
"""

from __future__ import annotations

import re
import secrets
import time

from server.core.errors import BadRequest, quoted

# Below are the numbers that a database gives its rows itself, from 1 on; above is room to count on.
_FIRST_NUMBERS = range(2**40, 2**62)


def new_id(prefix: str) -> str:
    """`prefix` and 28 hexadecimal digits: microseconds since 1970, then 56 bits of chance."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(7)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` may be such an id; so it is printable, and short enough for any column."""
    return re.fullmatch(rf"{re.escape(prefix)}[0-9a-f]{{28}}", text) is not None


def first_number() -> int:
    """A random number below 2**62 for the first row of a sequence; the next rows have the numbers that follow.

    So the numbers show how long this sequence is, and nothing of other sequences in the same table.
    """
    return secrets.choice(_FIRST_NUMBERS)


def is_counted_by_database(number: int) -> bool:
    """Whether the database gave a row its number, counting the rows of all tenants."""
    return number < _FIRST_NUMBERS.start


def check_after(after: str, prefix: str, what: str) -> None:
    """BadRequest when `after`, where a page of a listing begins, can never have been the id of `what` is listed ("a
    file"). What has been deleted may still be named, so that a listing goes on while others delete."""
    if not is_id(after, prefix):
        raise BadRequest(
            f"after is {quoted(after)}, expected the id of {what}, such as the last_id of the page before",
            param="after",
            code="invalid_value",
        )
