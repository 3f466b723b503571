"""Pages of listings, and the query parameters that many routes take.

A query with a parameter that is not known is refused: one that is misspelt would be as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol, Self, get_origin

from pydantic import BaseModel, ConfigDict, Field

from server.core.errors import BadRequest, quoted
from server.core.metadata import MAX_PAIRS

_METADATA = re.compile(r"metadata(?:\[(?P<bracketed>.*)\]|\.(?P<dotted>.*))", re.DOTALL)
After = Annotated[
    str | None,
    Field(description="Where the page begins: behind this one, the last of the page before, also if it was deleted"),
]
# How names of adapters may begin, see names.py.
NamePrefix = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._:/-]*$")]


class HasId(Protocol):
    """What pages are of."""

    id: str


class IdPage(BaseModel):
    """A page of a listing; subclasses say of what their `data` is."""

    object: Literal["list"] = "list"
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def page(cls, data: Sequence[HasId], has_more: bool) -> Self:
        """`data` as a page."""
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        fields: dict[str, Any] = {"data": data, "has_more": has_more, "first_id": first_id, "last_id": last_id}
        return cls(**fields)


class StrictQuery(BaseModel):
    """Query parameters of which none may be unknown."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def lists(cls) -> set[str]:
        """The names of those that may be given more than once."""
        fields = cls.model_fields.items()
        return {field.alias or name for name, field in fields if get_origin(field.annotation) is list}


class PageQuery(StrictQuery):
    """Where a page begins (behind the item `after`) and how long it is."""

    after: After = None
    limit: int = Field(20, ge=1, le=100)


def metadata_filters(parameters: Iterable[tuple[str, object]], known: str) -> dict[str, str]:
    """What `metadata[key]=value` and `metadata.key=value` among query `parameters` search for.

    BadRequest for a parameter that is neither; `known` are those that the route has besides.
    """
    wanted: dict[str, str] = {}
    for name, value in parameters:
        match = _METADATA.fullmatch(name)
        if match is None:
            raise BadRequest(
                f"the query has the unknown parameter {quoted(name)}; known are {known} and metadata[<key>]",
                param=name,
                code="unknown_parameter",
            )
        key = match["bracketed"] if match["dotted"] is None else match["dotted"]
        if not isinstance(value, str) or not (key + value).isprintable() or key in wanted:
            raise BadRequest(
                f"{quoted(name)} is {quoted(value)}, expected one printable value", param=name, code="invalid_value"
            )
        wanted[key] = value
    return wanted


def check_filter_count(wanted: dict[str, str]) -> dict[str, str]:
    """`wanted` itself. BadRequest when that is more metadata than anything has."""
    if len(wanted) > MAX_PAIRS:
        raise BadRequest(
            f"the query has {len(wanted)} metadata keys, expected at most {MAX_PAIRS}",
            param="metadata",
            code="invalid_value",
        )
    return wanted


class NoQuery(StrictQuery):
    """No query parameters at all."""
