"""Ids of files, jobs and checkpoints.

They begin with the time, so they sort by it and a listing can continue after any id. The rest is random, so they cannot
be guessed.
"""

from __future__ import annotations

import re
import secrets
import time


def new_id(prefix: str) -> str:
    """`prefix` and 28 hexadecimal digits: microseconds since 1970, then 56 bits of chance."""
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(7)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` may be such an id; so it is printable, and short enough for any column."""
    return re.fullmatch(rf"{re.escape(prefix)}[0-9a-f]{{28}}", text) is not None
