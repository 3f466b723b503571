"""Deleting adapters and versions, bringing them back, and removing them for good.

Deleting marks versions with a time that no other deletion of the same adapter has, so that restoring an adapter brings
back exactly what its last deletion took. The number of a purged version is not given out again.

Design decision: an adapter whose last version is deleted is no longer public, and restoring it does not make it public
again. If the name stayed public, the next upload under it would be open to all tenants at once, and nobody could take
that back before; if a restoration brought it back, it would depend on what was uploaded in between.

Functions of a connection, to be run by `server.api.writes`. An adapter counts as existing when it has a version that is
not deleted.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest
from server.core.names import Reference
from server.db.tables import ADAPTER_VERSIONS, ADAPTERS, ALIAS_MOVES, ALIASES
from server.registry.alias_targets import targets_from_json
from server.registry.etags import NO_PRECONDITION, Precondition, revision_etag, version_etag
from server.registry.rows import adapter_not_found, locked_row, versions_changed
from server.registry.versions import VERSION_ROWS, entry_of


def delete(
    connection: Connection, tenant_id: int, reference: Reference, precondition: Precondition = NO_PRECONDITION
) -> list[int]:
    """Mark a version, or an adapter with all of its versions, as deleted; returns their numbers.

    NotFound when there is nothing to delete; BadRequest when an alias stands for the version; PreconditionFailed.
    """
    row = locked_row(connection, tenant_id, _without_alias(reference))
    _check(connection, row, reference, precondition)
    _refuse_if_aliased(connection, row, reference)
    last = sa.select(sa.func.max(ADAPTER_VERSIONS.c.deleted_at)).where(ADAPTER_VERSIONS.c.adapter_id == row.id)
    deleted_at = max(now(), (connection.execute(last).scalar() or 0) + 1)
    deleted = connection.execute(
        ADAPTER_VERSIONS.update()
        .where(*_chosen(row, reference), ADAPTER_VERSIONS.c.deleted_at.is_(None))
        .values(deleted_at=deleted_at)
        .returning(ADAPTER_VERSIONS.c.version)
    )
    versions = sorted(deleted.scalars())
    if not versions:
        raise adapter_not_found(reference)
    versions_changed(connection, row)
    return versions


def restore(connection: Connection, tenant_id: int, reference: Reference) -> list[int]:
    """Take back the deletion of a version, or what an adapter's last deletion took; returns their numbers.

    NotFound when there is nothing to bring back; BadRequest when it is not deleted, or at the tenant's limit.
    """
    row = locked_row(connection, tenant_id, _without_alias(reference))
    is_adapter = ADAPTER_VERSIONS.c.adapter_id == row.id
    if reference.version is None and row.latest_version is not None:
        raise _not_deleted(f"{reference} is not deleted; to bring back one of its versions, restore {reference}@<n>.")
    chosen = [*_chosen(row, reference), ADAPTER_VERSIONS.c.deleted_at.is_not(None)]
    if reference.version is None:
        last = sa.select(sa.func.max(ADAPTER_VERSIONS.c.deleted_at)).where(is_adapter).scalar_subquery()
        chosen.append(ADAPTER_VERSIONS.c.deleted_at == last)
    restored = connection.execute(
        ADAPTER_VERSIONS.update().where(*chosen).values(deleted_at=None).returning(ADAPTER_VERSIONS.c.version)
    )
    versions = sorted(restored.scalars())
    if not versions:
        live = sa.select(ADAPTER_VERSIONS.c.version).where(*_chosen(row, reference))
        if reference.version is not None and connection.execute(live).one_or_none() is not None:
            raise _not_deleted(f"{reference} is not deleted, so there is nothing to restore.")
        raise adapter_not_found(reference)
    versions_changed(connection, row)
    return versions


def purge(
    connection: Connection, tenant_id: int, reference: Reference, precondition: Precondition = NO_PRECONDITION
) -> list[int]:
    """Remove a version, or an adapter with its aliases and their history, deleted before or not; returns the numbers.

    Raises as `delete`.
    """
    row = locked_row(connection, tenant_id, _without_alias(reference))
    _check(connection, row, reference, precondition)
    _refuse_if_aliased(connection, row, reference)
    purged = connection.execute(
        ADAPTER_VERSIONS.delete().where(*_chosen(row, reference)).returning(ADAPTER_VERSIONS.c.version)
    )
    versions = sorted(purged.scalars())
    if not versions:
        raise adapter_not_found(reference)
    if reference.version is None:
        connection.execute(ALIASES.delete().where(ALIASES.c.adapter_id == row.id))
        connection.execute(ALIAS_MOVES.delete().where(ALIAS_MOVES.c.adapter_id == row.id))
    versions_changed(connection, row)
    return versions


def _chosen(row: Row[Any], reference: Reference) -> list[sa.ColumnElement[bool]]:
    chosen = [ADAPTER_VERSIONS.c.adapter_id == row.id]
    return chosen if reference.version is None else [*chosen, ADAPTER_VERSIONS.c.version == reference.version]


def _without_alias(reference: Reference) -> Reference:
    if reference.alias is None:
        return reference
    name = reference.qualified_name
    raise BadRequest(
        f"name is {str(reference)!r}, which names an alias: give the version it stands for, as in '{name}@3', or use "
        f"/v1/adapters/{name}/aliases/{reference.alias} to change the alias",
        param="name",
        code="invalid_name",
    )


def _check(connection: Connection, row: Row[Any], reference: Reference, precondition: Precondition) -> None:
    if precondition == NO_PRECONDITION:
        return
    if reference.version is None:
        precondition.check(None if row.latest_version is None else revision_etag(row.revision))
        return
    rows = VERSION_ROWS.where(ADAPTERS.c.id == row.id, ADAPTER_VERSIONS.c.version == reference.version)
    found = connection.execute(rows.where(ADAPTER_VERSIONS.c.deleted_at.is_(None))).one_or_none()
    precondition.check(None if found is None else version_etag(entry_of(found)))


def _refuse_if_aliased(connection: Connection, row: Row[Any], reference: Reference) -> None:
    if reference.version is None:
        return
    aliases = connection.execute(sa.select(ALIASES).where(ALIASES.c.adapter_id == row.id).order_by(ALIASES.c.name))
    names = [alias.name for alias in aliases if reference.version in targets_from_json(alias.targets)]
    if names and row.latest_version is not None:
        raise BadRequest(
            f"{reference} cannot be deleted while {_listed(names)} for it; move or remove "
            f"{'it' if len(names) == 1 else 'them'} first, or delete the whole adapter.",
            param="name",
            code="version_in_use",
        )


def _listed(names: list[str]) -> str:
    return f"the alias {names[0]} stands" if len(names) == 1 else f"the aliases {', '.join(names)} stand"


def _not_deleted(message: str) -> BadRequest:
    return BadRequest(message, param="name", code="not_deleted")
