"""Which keywords of a JSON schema xgrammar would ignore, by vLLM's own rules, and in which of its objects they stand.

vLLM says of a schema only that it has some. Here each object is asked about alone, in one pass: if one were asked about
with all that is in it, the deepest part would be walked once for every level around it. It is for schemas that the
compiler has been through, which are nested no deeper than grammar_worker.MAX_DEPTH.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

# Of a message: keys may be as long as the schema.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object stands. It is a string only once it is told: thousands may lie behind one long key."""

    outer: Place | None
    key: str
    index: int | None

    def __str__(self) -> str:
        steps = []
        place: Place | None = self
        while place is not None:
            steps.append(place.key[:MAX_SHOWN] if place.index is None else f"{place.key[:MAX_SHOWN]}[{place.index}]")
            place = place.outer
        return ".".join(reversed(steps))[:MAX_SHOWN]


def ignored_keywords(spec: str) -> str | None:
    """Why the schema `spec` cannot be enforced as it is; None when it can."""
    schema = json.loads(spec)
    pending: list[tuple[Place | None, dict[str, Any]]] = [(None, schema)] if isinstance(schema, dict) else []
    while pending:
        place, part = pending.pop()
        if has_xgrammar_unsupported_json_features(_alone(part)):
            at = f" in {place}" if place else ""
            return f"the keywords {sorted(part)!s:.{MAX_SHOWN}}{at} cannot all be enforced together. Leave some out"
        pending.extend(_inside(part, place))
    return None


def _alone(part: dict[str, Any]) -> dict[str, Any]:
    """`part` with the keys of what is in it, and without their values: vLLM's rules look no deeper."""
    return {
        key: dict.fromkeys(value)
        if isinstance(value, dict)
        else [None if isinstance(item, dict) else item for item in value]
        if isinstance(value, list)
        else value
        for key, value in part.items()
    }


def _inside(part: dict[str, Any], place: Place | None) -> Iterator[tuple[Place, dict[str, Any]]]:
    for key, value in part.items():
        if isinstance(value, dict):
            yield Place(place, key, None), value
        elif isinstance(value, list):
            yield from ((Place(place, key, n), item) for n, item in enumerate(value) if isinstance(item, dict))
