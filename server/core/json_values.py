"""How many values a JSON text may hold, known without parsing it.

A limit on bytes is not enough: an image of many bytes is one value, while a list of small numbers takes a hundred bytes
of memory for two bytes of text, and as much longer to parse. Every value but the first follows a comma or an opening
bracket, so their number is an upper bound. Those within strings are counted as well.
"""

from __future__ import annotations

from server.core.errors import PayloadTooLarge
from server.core.json_text import check_depth

# What a value takes in memory beside its text, about: an entry of a list or dict, and the head of an object.
VALUE_BYTES = 64


def most_values(text: bytes) -> int:
    """No fewer than the values in `text`, not counting keys of objects."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def check_values(text: bytes, limit: int, setting: str) -> int:
    """`most_values`. PayloadTooLarge for more than `limit`, which is the server's `setting`; InvalidJson when they are
    the brackets of a text that is nested too deeply."""
    values = most_values(text)
    if values > limit:
        check_depth(text)
        raise PayloadTooLarge(
            f"The body {too_many(values, limit)} (the server's setting {setting}). Send fewer, or in several requests."
        )
    return values


def too_many(values: int, limit: int) -> str:
    """What is said of a text with so many `most_values`."""
    return f"has {values} commas and opening brackets, and so perhaps as many JSON values; expected at most {limit}"
