"""Reports of usage: summed into buckets of an hour or a day, and within them by adapter, key or tenant.

The database sums and orders, so a page costs memory for its results only. A page ends after a number of buckets or of
results, whichever comes first; where a bucket has more results than fit, the next page goes on within it.

Whose usage may be seen is for the route to decide.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.errors import BadRequest, quoted
from server.db.tables import TENANTS, USAGE

Group = Literal["adapter", "key", "tenant"]
GROUPS: tuple[Group, ...] = ("adapter", "key", "tenant")
MAX_RESULTS = 10_000

_COLUMNS: dict[Group, sa.ColumnElement[str]] = {
    "adapter": USAGE.c.adapter,
    "key": USAGE.c.key_id,
    "tenant": TENANTS.c.name,
}


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins: at a bucket (its first second), behind a result of it if `behind` names its groups."""

    bucket: int
    behind: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """What a client gets to see."""
        content = [self.bucket, *(self.behind or ())]
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def parse_cursor(text: str, query: UsageQuery) -> Cursor:
    """The cursor that was handed out for a page of `query`. BadRequest when it cannot be one."""
    try:
        bucket, *behind = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        valid = type(bucket) is int and 0 <= bucket < 2**53 and bucket % query.width == 0
        valid = valid and len(behind) in (0, len(query.groups))
        valid = valid and all(isinstance(value, str) and value.isascii() and value.isprintable() for value in behind)
    except (ValueError, TypeError, RecursionError):
        valid = False
    if not valid:
        raise BadRequest(
            f"page is {quoted(text)}, expected the next_page of an answer to the same query",
            param="page",
            code="invalid_value",
        )
    return Cursor(bucket, tuple(behind) or None)


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """What to sum. Buckets have `width` seconds; `start` and `end` (exclusive) are at their edges.

    `tenant_id` None is every tenant; empty sequences let everything through. An adapter's name stands for all of its
    versions.
    """

    tenant_id: int | None
    start: int
    end: int
    width: int
    groups: tuple[Group, ...] = ()
    adapters: Sequence[str] = ()
    keys: Sequence[str] = ()
    tenants: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one group used in one bucket. The groups that were not asked for are None."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    adapter: str | None = None
    key: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One page: every bucket's first second and its results. `next` is where the next page begins."""

    buckets: tuple[tuple[int, tuple[Usage, ...]], ...]
    next: Cursor | None


def read_usage(
    connection: Connection, query: UsageQuery, cursor: Cursor, max_buckets: int, max_results: int = MAX_RESULTS
) -> Report:
    """The page that begins at `cursor`, of at most `max_buckets` buckets and `max_results` results."""
    end = min(query.end, cursor.bucket + max_buckets * query.width)
    rows = connection.execute(_statement(query, cursor, end).limit(max_results + 1)).all()
    following = Cursor(end) if end < query.end else None
    if len(rows) > max_results:
        rows = rows[:max_results]
        following = Cursor(rows[-1].bucket, tuple(getattr(rows[-1], group) for group in query.groups))
        end = rows[-1].bucket + query.width
    found: dict[int, list[Usage]] = {bucket: [] for bucket in range(cursor.bucket, end, query.width)}
    for row in rows:
        found[row.bucket].append(_usage(row, query.groups))
    return Report(tuple((bucket, tuple(results)) for bucket, results in found.items()), following)


def _statement(query: UsageQuery, cursor: Cursor, end: int) -> sa.Select[tuple[int, ...]]:
    # Not a parameter: PostgreSQL would not see that the column to group by is the one that is selected.
    bucket = USAGE.c.hour - USAGE.c.hour % sa.literal_column(str(query.width))
    groups = [_COLUMNS[group] for group in query.groups]
    sums = [
        sa.cast(sa.func.sum(USAGE.c[name]), sa.BigInteger).label(name)
        for name in ("requests", "prompt_tokens", "completion_tokens")
    ]
    labelled = [column.label(group) for group, column in zip(query.groups, groups, strict=True)]
    statement = sa.select(bucket.label("bucket"), *labelled, *sums)
    if "tenant" in query.groups or query.tenants:
        statement = statement.join_from(USAGE, TENANTS, TENANTS.c.id == USAGE.c.tenant_id)
    return (
        statement.where(USAGE.c.hour >= cursor.bucket, USAGE.c.hour < end, *_filters(query))
        .where(*_behind(query, cursor, bucket))
        .group_by(bucket, *groups)
        .order_by(bucket, *groups)
    )


def _filters(query: UsageQuery) -> Iterator[sa.ColumnElement[bool]]:
    if query.tenant_id is not None:
        yield USAGE.c.tenant_id == query.tenant_id
    if query.adapters:
        # LIKE would not tell upper from lower case on SQLite.
        versions = (sa.func.substr(USAGE.c.adapter, 1, len(name) + 1) == f"{name}@" for name in query.adapters)
        yield sa.or_(USAGE.c.adapter.in_(query.adapters), *versions)
    if query.keys:
        yield USAGE.c.key_id.in_(query.keys)
    if query.tenants:
        yield TENANTS.c.name.in_(query.tenants)


def _behind(query: UsageQuery, cursor: Cursor, bucket: sa.ColumnElement[int]) -> Iterator[sa.ColumnElement[bool]]:
    if cursor.behind is not None:
        columns = [_COLUMNS[group] for group in query.groups]
        yield sa.or_(bucket > cursor.bucket, sa.tuple_(*columns) > sa.tuple_(*cursor.behind))


def _usage(row: Row[tuple[int, ...]], groups: Sequence[Group]) -> Usage:
    usage = Usage(row.requests, row.prompt_tokens, row.completion_tokens)
    return replace(usage, **{group: getattr(row, group) for group in groups})
