"""Storing new versions of adapters, one or a thousand at a time, by a handful of statements for all of them.

The adapters' rows are made or found and then locked, in the order of their names whatever the order of the batch, so
that of two batches one waits for the other, and they do not deadlock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from adapters.vector.adapter import Adapter
from server.core.clock import now
from server.db.database import Database
from server.db.tables import ADAPTER_METADATA, ADAPTER_VERSIONS, ADAPTERS
from server.registry.etags import NO_PRECONDITION, Precondition, revision_etag
from server.registry.rows import count_adapters, drop_dangling_aliases, metadata_rows, revision_step
from server.registry.versions import Entry, StoredVersion, version_values


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is to be stored as the next version of `name`."""

    name: str
    adapter: Adapter
    metadata: Mapping[str, str] = field(default_factory=dict)


def create_versions(
    database: Database,
    connection: Connection,
    tenant_id: int,
    items: Sequence[NewVersion],
    precondition: Precondition = NO_PRECONDITION,
) -> list[Entry]:
    """Store each of `items` as the next version of its name, and return them as they now are, in their order.

    A name that comes twice gets two versions. Made for batches of a thousand or so. Raises PreconditionFailed, by each
    name's ETag, and BadRequest when the tenant would have too many adapters.
    """
    if not items:
        return []
    rows = lock_adapters(database, connection, tenant_id, {item.name for item in items})
    for row in rows.values():
        precondition.check(None if row.latest_version is None else revision_etag(row.revision))
    stored, last_version = [], {name: row.last_version for name, row in rows.items()}
    for item in items:
        last_version[item.name] += 1
        stored.append(_stored(item, last_version[item.name]))
    revisions = {name: row.revision + revision_step() for name, row in rows.items()}
    _update_rows(connection, rows, last_version, revisions)
    connection.execute(
        ADAPTER_VERSIONS.insert(), [version_values(rows[version.name].id, version) for version in stored]
    )
    _replace_metadata(connection, rows, {version.name: version for version in stored})
    deleted_before = [row.id for row in rows.values() if row.latest_version is None and row.last_version]
    drop_dangling_aliases(connection, deleted_before)
    count_adapters(connection, tenant_id, sum(row.latest_version is None for row in rows.values()))
    return [Entry(version, revisions[version.name], rows[version.name].public) for version in stored]


def lock_adapters(
    database: Database, connection: Connection, tenant_id: int, names: Collection[str]
) -> dict[str, Row[Any]]:
    """The rows of these names, made where there are none, locked until the transaction ends.

    For a transaction that changes several adapters one after the other: the first change locks the tenant's row, after
    which no more adapters may be locked (`server.registry.rows`).
    """
    names = sorted(names)
    new = {"tenant_id": tenant_id, "created_at": now(), "last_version": 0, "revision": 0, "public": False}
    connection.execute(
        database.insert(ADAPTERS).on_conflict_do_nothing(index_elements=["tenant_id", "name"]),
        [{"name": name, **new} for name in names],
    )
    found = connection.execute(
        sa.select(ADAPTERS)
        .where(ADAPTERS.c.tenant_id == tenant_id, ADAPTERS.c.name.in_(names))
        .order_by(ADAPTERS.c.name)
        .with_for_update()
    )
    return {row.name: row for row in found}


def drop_without_versions(connection: Connection, rows: Iterable[Row[Any]]) -> None:
    """Remove those of the rows that `lock_adapters` made and that got no version after all."""
    made = [row.id for row in rows if row.last_version == 0]
    connection.execute(ADAPTERS.delete().where(ADAPTERS.c.id.in_(made), ADAPTERS.c.last_version == 0))


def _stored(item: NewVersion, version: int) -> StoredVersion:
    sha256 = hashlib.sha256(item.adapter.data).hexdigest()
    return StoredVersion(item.name, version, now(), item.adapter, sha256, item.metadata)


def _update_rows(
    connection: Connection, rows: Mapping[str, Row[Any]], last_version: Mapping[str, int], revisions: Mapping[str, int]
) -> None:
    connection.execute(
        ADAPTERS.update()
        .where(ADAPTERS.c.id == sa.bindparam("row_id"))
        .values(
            last_version=sa.bindparam("version"), latest_version=sa.bindparam("version"), revision=sa.bindparam("next")
        ),
        [{"row_id": row.id, "version": last_version[name], "next": revisions[name]} for name, row in rows.items()],
    )


def _replace_metadata(
    connection: Connection, rows: Mapping[str, Row[Any]], latest: Mapping[str, StoredVersion]
) -> None:
    existing = [row.id for row in rows.values() if row.latest_version is not None]
    if existing:
        connection.execute(ADAPTER_METADATA.delete().where(ADAPTER_METADATA.c.adapter_id.in_(existing)))
    pairs = [pair for name, version in latest.items() for pair in metadata_rows(rows[name], version.metadata)]
    if pairs:
        connection.execute(ADAPTER_METADATA.insert(), pairs)
