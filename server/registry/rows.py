"""The one row per adapter: who may see or change it, and what follows when its versions change.

A write locks this row first and the tenant's after it, always in this order, so that writes of one adapter follow each
other, counts are exact, and no two writes deadlock.

Functions of a connection, to be called within a transaction.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, Forbidden, NotFound
from server.core.names import Reference
from server.db.tables import ADAPTER_METADATA, ADAPTER_VERSIONS, ADAPTERS, ALIAS_MOVES, ALIASES, TENANTS
from server.registry.etags import Precondition, revision_etag
from server.registry.versions import VERSION_ROWS, Entry, entry_of

# Leaves room for four billion changes of an adapter.
MAX_REVISION_STEP = 2**32


def visible_row(connection: Connection, tenant_id: int, reference: Reference) -> Row[Any]:
    """The row that `reference` of this tenant means, whatever its version; deleted adapters have theirs too.

    NotFound when there is none, or it is another tenant's and not public, or that tenant is disabled.
    """
    row = connection.execute(sa.select(ADAPTERS).where(*_meant(tenant_id, reference))).one_or_none()
    if row is None:
        raise adapter_not_found(reference)
    return row


def locked_row(connection: Connection, tenant_id: int, reference: Reference) -> Row[Any]:
    """The tenant's own row, locked until the transaction ends. Raises as `visible_row`, and Forbidden for what is
    another tenant's and public; a version of it that is deleted or never was is not found, as for a reader."""
    rows = sa.select(ADAPTERS).where(*_meant(tenant_id, reference))
    row = connection.execute(rows.with_for_update(of=ADAPTERS)).one_or_none()
    if row is None:
        raise adapter_not_found(reference)
    if row.tenant_id == tenant_id:
        return row
    if reference.version is not None:
        named = VERSION_ROWS.where(ADAPTERS.c.id == row.id, ADAPTER_VERSIONS.c.version == reference.version)
        live = sa.select(named.where(ADAPTER_VERSIONS.c.deleted_at.is_(None)).exists())
        if not connection.execute(live).scalar_one():
            raise adapter_not_found(reference)
    raise Forbidden(
        f"{reference} is another tenant's: you may use it and not change it.", param="name", code="not_the_owner"
    )


def _meant(tenant_id: int, reference: Reference) -> tuple[sa.ColumnElement[bool], ...]:
    """Which row `reference` of this tenant means."""
    is_named = ADAPTERS.c.name == reference.name
    if reference.tenant is None:
        return is_named, ADAPTERS.c.tenant_id == tenant_id
    # What may not be seen is not found and not locked, so that it cannot be told from what does not exist.
    enabled = sa.or_(TENANTS.c.disabled_at.is_(None), TENANTS.c.id == tenant_id)
    owner = sa.select(TENANTS.c.id).where(TENANTS.c.name == reference.tenant, enabled).scalar_subquery()
    return is_named, ADAPTERS.c.tenant_id == owner, sa.or_(ADAPTERS.c.tenant_id == tenant_id, ADAPTERS.c.public)


def versions_changed(connection: Connection, before: Row[Any]) -> int | None:
    """Bring the adapter whose row was `before` in line with its versions; returns its latest one. Without any left it
    is no longer public."""
    is_adapter = ADAPTER_VERSIONS.c.adapter_id == before.id
    latest = connection.execute(
        sa.select(ADAPTER_VERSIONS.c.version, ADAPTER_VERSIONS.c.metadata)
        .where(is_adapter, ADAPTER_VERSIONS.c.deleted_at.is_(None))
        .order_by(ADAPTER_VERSIONS.c.version.desc())
        .limit(1)
    ).one_or_none()
    version = None if latest is None else latest.version
    values: dict[str, Any] = {"latest_version": version}
    if version is None:
        values["public"] = False  # whatever comes under the name later was never shown to anyone
    raise_revision(connection, before.id, **values)
    if version != before.latest_version:
        connection.execute(ADAPTER_METADATA.delete().where(ADAPTER_METADATA.c.adapter_id == before.id))
        pairs = {} if latest is None else json.loads(latest.metadata)
        if pairs:
            connection.execute(ADAPTER_METADATA.insert(), metadata_rows(before, pairs))
    if before.latest_version is None and version is not None:
        drop_dangling_aliases(connection, [before.id])
    count_adapters(connection, before.tenant_id, (version is not None) - (before.latest_version is not None))
    return version


def raise_revision(connection: Connection, adapter_id: int, **values: Any) -> None:
    """Change the row, so that whatever is remembered of the adapter is read again."""
    revision = ADAPTERS.c.revision + revision_step()
    connection.execute(ADAPTERS.update().where(ADAPTERS.c.id == adapter_id).values(revision=revision, **values))


def revision_step() -> int:
    """By how much a change raises a revision: by chance, so that a database that was restored from a backup, and gives
    ids and versions a second time, never comes to a revision at which a gateway remembers something else."""
    return 1 + secrets.randbelow(MAX_REVISION_STEP)


def set_public(
    connection: Connection, tenant_id: int, reference: Reference, public: bool, precondition: Precondition
) -> int:
    """Let other tenants use the adapter, or no longer; returns its latest version. Raises as `locked_row`, and
    PreconditionFailed."""
    row = locked_row(connection, tenant_id, reference)
    if row.latest_version is None:
        raise adapter_not_found(reference)
    precondition.check(revision_etag(row.revision))
    if row.public != public:
        raise_revision(connection, row.id, public=public)
    return int(row.latest_version)


def entry_at(connection: Connection, tenant_id: int, reference: Reference, version: int) -> Entry:
    """A version that this transaction has just changed."""
    rows = VERSION_ROWS.where(*_meant(tenant_id, reference), ADAPTER_VERSIONS.c.version == version)
    return entry_of(connection.execute(rows).one())


def metadata_rows(row: Row[Any], metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of ADAPTER_METADATA for the metadata of an adapter's latest version; `row` is the adapter's."""
    adapter = {"adapter_id": row.id, "tenant_id": row.tenant_id, "name": row.name}
    return [{"key": key, "value": value, **adapter} for key, value in metadata.items()]


def count_adapters(connection: Connection, tenant_id: int, more: int) -> None:
    """Add to the number of the tenant's adapters that are not deleted. BadRequest when they become too many."""
    if more == 0:
        return
    row = connection.execute(
        TENANTS.update()
        .where(TENANTS.c.id == tenant_id)
        .values(adapter_count=TENANTS.c.adapter_count + more)
        .returning(TENANTS.c.adapter_count, TENANTS.c.max_adapters)
    ).one()
    if more > 0 and row.max_adapters is not None and row.adapter_count > row.max_adapters:
        raise BadRequest(
            f"This would be {row.adapter_count} adapters, expected at most {row.max_adapters}, the tenant's limit; "
            "delete some, or upload as a new version of one there is.",
            param="name",
            code="adapter_limit_reached",
        )


def drop_dangling_aliases(connection: Connection, adapter_ids: list[int]) -> None:
    """Remove the aliases of these adapters that stand for a deleted version.

    A deleted adapter keeps its aliases, so that restoring it restores them; to be called when it comes back.
    """
    rows = connection.execute(sa.select(ALIASES).where(ALIASES.c.adapter_id.in_(adapter_ids))).all()
    for row in rows:
        targets = [int(version) for version in json.loads(row.targets)]
        live = sa.select(sa.func.count()).where(
            ADAPTER_VERSIONS.c.adapter_id == row.adapter_id,
            ADAPTER_VERSIONS.c.version.in_(targets),
            ADAPTER_VERSIONS.c.deleted_at.is_(None),
        )
        if connection.execute(live).scalar_one() < len(targets):
            remove_alias_row(connection, row.adapter_id, row.name)


def remove_alias_row(connection: Connection, adapter_id: int, alias: str) -> None:
    """Remove an alias, with a line in its history."""
    connection.execute(ALIASES.delete().where(ALIASES.c.adapter_id == adapter_id, ALIASES.c.name == alias))
    connection.execute(ALIAS_MOVES.insert().values(adapter_id=adapter_id, name=alias, targets=None, created_at=now()))


def adapter_not_found(reference: Reference, param: str = "name") -> NotFound:
    """The answer to a reference that stands for nothing: it never did, was deleted, or is another tenant's own."""
    return NotFound(
        f"There is no adapter {str(reference)!r}; GET /v1/adapters lists those there are.",
        param=param,
        code="adapter_not_found",
    )
