"""Values that official clients may send, and that the engine's request models refuse: left out of what it gets.

    n   null is OpenAI's default

Design decision: a list, which a test compares with the clients' types and the engine's models. Dropping null from every
field would be wrong: for some fields of the engine it means something else than leaving the field out.
"""

from __future__ import annotations

REFUSED: dict[str, tuple[object, ...]] = {"n": (None,)}


def leave_out_refused(payload: dict[str, object]) -> None:
    """Take those values out of `payload`, the body of a request to a model route."""
    for field, values in REFUSED.items():
        value = payload.get(field, ...)
        if (value is None or isinstance(value, str)) and value in values:
            del payload[field]
