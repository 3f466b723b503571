"""Many adapters as NDJSON, a line per adapter:

    {"name": "acme/math", "vector": "TT5NPk0+...", "recipe": {...}, "dtype": "bfloat16", "metadata": {...}}

A line takes the fields of a single upload, and those of an export that describe the stored version (`version`,
`created_at`) are allowed and ignored.

It is read line by line, however long it is. Lines are cut into batches by their number and by their length, which
bounds the bytes in memory at once.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from typing import Any

from adapters.factors.factors import Factors
from adapters.vector.recipe import MAX_U
from server.core.errors import ApiError, BadRequest, PayloadTooLarge, quoted
from server.core.json_text import InvalidJson, parse_json
from server.core.json_values import most_values, too_many
from server.core.metadata import metadata_of
from server.core.names import check_new_name
from server.registry.bulk_items import Item, Rejected
from server.registry.creation import NewVersion
from server.registry.spec import SPEC_FIELDS, name_of, parse_spec
from server.registry.versions import StoredVersion

NDJSON = "application/x-ndjson"
# Of any server, so that vectors of small models may be long lists of numbers.
LEAST_LINE_LIMIT = 2**20
# In a line, however long: parsing holds the interpreter's lock. Vectors of more numbers come in base64, as exported.
MOST_VALUES = LEAST_LINE_LIMIT // 2
# What may be in a line beside the vector: metadata, in which a character takes at most 12 bytes, and short fields.
MOST_DESCRIPTION_BYTES = 2**17
ITEM_FIELDS = ("name", *SPEC_FIELDS, "metadata")
# Fields of an exported line that a new version cannot be told.
IGNORED_FIELDS = ("version", "created_at")


def most_line_bytes(factors: Factors) -> int:
    """How long a line may be: as long as one that is exported of the longest vector there can be for `factors`."""
    vector_bytes = 4 * len(factors.modules) * MAX_U  # a group for each module, in float32
    return max(LEAST_LINE_LIMIT, 4 * -(-vector_bytes // 3) + MOST_DESCRIPTION_BYTES)


async def lines_of(
    chunks: AsyncIterable[bytes], most_bytes: int, keep: Callable[[int], None] = lambda _: None
) -> AsyncIterator[bytes]:
    """The lines of a body that comes in pieces, without their ends; empty lines too, so that they can be counted.

    Of a line beyond `most_bytes` only one byte more than that. `keep` hears how many bytes wait for the end of theirs.
    """
    line = bytearray()
    async for chunk in chunks:
        # Only what is new is searched: a line may come in as many pieces as it has bytes.
        for number, piece in enumerate(chunk.split(b"\n")):
            if number > 0:
                yield bytes(line)
                line.clear()
            line += piece[: most_bytes + 1 - len(line)]
        keep(len(line))
    if line.strip():
        yield bytes(line)


async def batches_of(
    lines: AsyncIterable[bytes], *, most_lines: int, most_bytes: int
) -> AsyncIterator[Sequence[bytes]]:
    """The lines that are not empty, so many at a time, or fewer as soon as they have `most_bytes`.

    Where they are cut follows from the lines alone, not from the pieces in which they came.
    """
    batch: list[bytes] = []
    size = 0
    async for line in lines:
        if line.strip():
            batch.append(line)
            size += len(line)
        if len(batch) == most_lines or size >= most_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def parse_line(line: bytes, factors: Factors, base_models: Collection[str]) -> Item:
    """The adapter that one line of NDJSON writes out."""
    name: str | None = None
    try:
        _check_size(line, factors)
        try:
            fields: Any = parse_json(line)
        except InvalidJson as error:
            said = error.said_of("the line", is_line=True)
            raise BadRequest(said, param=error.param, code=error.code) from None
        if not isinstance(fields, dict):
            raise BadRequest(f"the line is {quoted(fields)}, expected a JSON object", code="invalid_json")
        name = name_of(fields)
        for field in fields:
            if field not in ITEM_FIELDS and field not in IGNORED_FIELDS:
                raise BadRequest(
                    f"the line has the unknown field {quoted(field)}; known are {', '.join(ITEM_FIELDS)}",
                    param=field,
                    code="unknown_parameter",
                )
        check_new_name(name, base_models)
        return NewVersion(name, parse_spec(fields, factors), metadata_of(fields.get("metadata"), printable=True))
    except ApiError as error:
        return Rejected(name, error)


def _check_size(line: bytes, factors: Factors) -> None:
    """PayloadTooLarge for a line that is longer, or would take more memory, than any adapter for `factors` needs."""
    most = most_line_bytes(factors)
    if len(line) > most:
        raise PayloadTooLarge(
            f"the line has more than {most} bytes, expected one adapter per line, ended by a line feed",
            code="line_too_long",
        )
    if (values := most_values(line)) > MOST_VALUES:
        raise PayloadTooLarge(f"the line {too_many(values, MOST_VALUES)}", code="line_too_long")


def ndjson_line(stored: StoredVersion) -> bytes:
    """One version as a line that `parse_line` reads back."""
    adapter = stored.adapter
    fields = {
        "name": stored.name,
        "version": stored.version,
        "created_at": stored.created_at,
        "vector": base64.b64encode(adapter.data).decode(),
        "dtype": adapter.dtype,
        "recipe": adapter.recipe.to_dict(),
        "factors": adapter.factors,
        "metadata": dict(stored.metadata),
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
