"""OpenAI's metadata: pairs of texts that a client attaches to what is its own. One rule for all that has them."""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted

MAX_PAIRS, MAX_KEY_CHARS, MAX_VALUE_CHARS = 16, 64, 512


def metadata_of(value: object, *, printable: bool = False) -> Mapping[str, str]:
    """`value` as metadata; null is none. BadRequest for anything but a few short texts under short keys.

    printable: of what can be searched by its metadata, whose texts may stand in a URL.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MAX_PAIRS:
        raise BadRequest(
            f"metadata is {quoted(value)}, expected an object with at most {MAX_PAIRS} pairs",
            param="metadata",
            code="invalid_metadata",
        )
    for key, text in value.items():
        fits = isinstance(text, str) and 1 <= len(key) <= MAX_KEY_CHARS and len(text) <= MAX_VALUE_CHARS
        if not fits or (printable and not (key + text).isprintable()):
            raise BadRequest(
                f"metadata[{quoted(key)}] is {_length(text)}, expected {'printable ' if printable else ''}text of at "
                f"most {MAX_VALUE_CHARS} characters under a key of 1 to {MAX_KEY_CHARS}",
                param=f"metadata.{key[:MAX_KEY_CHARS]}",
                code="invalid_metadata",
            )
    return value


def _length(text: object) -> str:
    return f"text of {len(text)} characters" if isinstance(text, str) and len(text) > MAX_VALUE_CHARS else quoted(text)
