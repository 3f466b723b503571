"""What models are evaluated on: rows of a JSONL file, as for training, or a public set by its name.

    {"messages": [{"role": "user", "content": "What is 17 * 2?"}], "answer": "34"}

A public set (public_sets.py) becomes the same rows, so nothing else needs to know where a row is from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.evaluation.public_sets import PUBLIC_SETS, RowsError, public_rows

RESERVED_KEYS = ("messages", "tools")


@dataclass(frozen=True, slots=True)
class Row:
    """`messages` end with the user's; `item` are the fields that a grader sees."""

    messages: Sequence[Mapping[str, Any]]
    item: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()


def load_rows(data: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of the file, or public set, `data`. RowsError when it has none."""
    path = Path(data)
    # A pipe is a file, too.
    if path.exists() and not path.is_dir():
        try:
            rows = list(_read(path, limit))
        except (OSError, UnicodeDecodeError) as error:
            raise RowsError(f"{data} cannot be read: {error}") from error
    elif data in PUBLIC_SETS:
        rows = [_of(row) for row in public_rows(data, limit)]
    else:
        raise RowsError(f"there is no file {data}, and no public set of that name; those are {', '.join(PUBLIC_SETS)}")
    if not rows:
        raise RowsError(f"{data} has no rows, expected one JSON object per line")
    return rows


def _read(path: Path, limit: int | None) -> Iterable[Row]:
    count = 0
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if count == limit:
                return
            if line.strip():
                count += 1
                yield _row(line, f"{path}, line {number}")


def _row(line: str, where: str) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RowsError(f"{where}: it is not JSON: {error}") from error
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        raise RowsError(
            f'{where}: expected an object with a list of messages, {{"messages": [{{"role": "user", ...}}], ...}}'
        )
    if messages[-1].get("role") != "user":
        raise RowsError(f"{where}: the last message is the {messages[-1].get('role')}'s, expected the user's")
    return _of(value)


def _of(value: Mapping[str, Any]) -> Row:
    item = {key: field for key, field in value.items() if key not in RESERVED_KEYS}
    return Row(value["messages"], item, value.get("tools") or ())
