"""Values that official clients may send, and that the engine's request models refuse: left out of what it gets.

    service_tier   there is one, and everyone has it
    n              null is OpenAI's default, as if it were not there

Design decision: a list of what is refused, found by holding the clients' types against the engine's models (a test
does); null is not dropped everywhere, since for some fields of the engine it is not what leaving them out is.
"""

from __future__ import annotations

REFUSED: dict[str, tuple[object, ...]] = {"service_tier": ("fast", "ultrafast", None), "n": (None,)}


def leave_out_refused(payload: dict[str, object]) -> None:
    """Take those values out of `payload`, the body of a request to a model route."""
    for field, values in REFUSED.items():
        value = payload.get(field, ...)
        if (value is None or isinstance(value, str)) and value in values:
            del payload[field]
