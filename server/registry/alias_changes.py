"""Changes of aliases: moved to another version, or to several with weights, rolled back, removed, each in one step.

Every move of an alias, and its removal, is a row that stays: a rollback reads the last two, and is itself a move.
Setting an alias to what it stands for already is no move.

Functions of a connection, to be run by `server.api.writes`.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, Forbidden
from server.core.names import Reference
from server.db.tables import ADAPTER_VERSIONS, ALIAS_MOVES, ALIASES
from server.registry.alias_targets import Targets, targets_from_json, targets_to_json
from server.registry.aliases import MAX_ALIASES, Alias, alias_not_found, find_alias, get_alias, moves_of
from server.registry.etags import NO_PRECONDITION, Precondition
from server.registry.rows import adapter_not_found, locked_row, raise_revision, remove_alias_row


def set_alias(
    connection: Connection,
    tenant_id: int,
    reference: Reference,
    alias: str,
    targets: Targets,
    precondition: Precondition = NO_PRECONDITION,
) -> tuple[Alias, bool]:
    """Move `alias` to `targets`; returns it, and whether it is new.

    NotFound without the adapter; BadRequest for a version that does not exist, or one alias too many;
    PreconditionFailed, by the alias's ETag.
    """
    row, known = _locked(connection, tenant_id, reference, alias, precondition)
    _check_versions(connection, row, reference, targets)
    if known is not None and targets_to_json(known.targets) == targets_to_json(targets):
        return known, False
    if known is None:
        _check_room(connection, row, reference)
    return _move(connection, row, alias, targets), known is None


def remove_alias(
    connection: Connection,
    tenant_id: int,
    reference: Reference,
    alias: str,
    precondition: Precondition = NO_PRECONDITION,
) -> None:
    """Remove `alias`; its history stays. NotFound when there is none; PreconditionFailed."""
    row, known = _locked(connection, tenant_id, reference, alias, precondition, is_there=True)
    if known is None:
        raise alias_not_found(reference, alias)
    remove_alias_row(connection, row.id, alias)
    raise_revision(connection, row.id)


def rollback_alias(
    connection: Connection,
    tenant_id: int,
    reference: Reference,
    alias: str,
    precondition: Precondition = NO_PRECONDITION,
) -> Alias:
    """Move `alias` to what it stood for before its last move, which may have been its removal.

    NotFound when there never was one; BadRequest when it stood for nothing, or for a version deleted since;
    PreconditionFailed.
    """
    row, known = _locked(connection, tenant_id, reference, alias, precondition, is_there=True)
    moves = connection.execute(moves_of(row.id, alias).limit(2)).all()
    if not moves:
        raise alias_not_found(reference, alias)
    if len(moves) == 1 or moves[1].targets is None:
        raise BadRequest(
            f"The alias {alias} of {reference} stood for nothing before its last move, so it cannot be rolled back; "
            "DELETE removes it.",
            param="alias",
            code="nothing_to_roll_back",
        )
    targets = targets_from_json(moves[1].targets)
    _check_versions(connection, row, reference, targets)
    if known is None:
        _check_room(connection, row, reference)
    return _move(connection, row, alias, targets)


def _locked(
    connection: Connection,
    tenant_id: int,
    reference: Reference,
    alias: str,
    precondition: Precondition,
    *,
    is_there: bool = False,
) -> tuple[Row[Any], Alias | None]:
    """The adapter's row, locked until the transaction ends, and the alias as it is. NotFound; PreconditionFailed.

    Raises Forbidden for another tenant's public adapter; with `is_there`, NotFound where that has no such alias.
    """
    try:
        row = locked_row(connection, tenant_id, reference)
    except Forbidden:
        if is_there:
            get_alias(connection, tenant_id, reference, alias)
        raise
    if row.latest_version is None:
        raise adapter_not_found(reference)
    known = find_alias(connection, row.id, alias)
    precondition.check(None if known is None else known.etag)
    return row, known


def _move(connection: Connection, row: Row[Any], alias: str, targets: Targets) -> Alias:
    moved = Alias(alias, dict(targets), now())
    values = {"targets": targets_to_json(targets), "moved_at": moved.moved_at}
    changed = connection.execute(
        ALIASES.update().where(ALIASES.c.adapter_id == row.id, ALIASES.c.name == alias).values(values)
    )
    if changed.rowcount == 0:
        connection.execute(ALIASES.insert().values(adapter_id=row.id, name=alias, **values))
    connection.execute(
        ALIAS_MOVES.insert().values(adapter_id=row.id, name=alias, targets=values["targets"], created_at=moved.moved_at)
    )
    raise_revision(connection, row.id)
    return moved


def _check_versions(connection: Connection, row: Row[Any], reference: Reference, targets: Targets) -> None:
    live = connection.execute(
        sa.select(ADAPTER_VERSIONS.c.version).where(
            ADAPTER_VERSIONS.c.adapter_id == row.id,
            ADAPTER_VERSIONS.c.version.in_(list(targets)),
            ADAPTER_VERSIONS.c.deleted_at.is_(None),
        )
    )
    missing = sorted(set(targets) - set(live.scalars()))
    if missing:
        raise BadRequest(
            f"There is no version {missing[0]} of {reference}, or it is deleted; "
            f"GET /v1/adapters/{reference}/versions lists those there are.",
            param="version" if len(targets) == 1 else f"versions.{missing[0]}",
            code="version_not_found",
        )


def _check_room(connection: Connection, row: Row[Any], reference: Reference) -> None:
    count = connection.execute(sa.select(sa.func.count()).where(ALIASES.c.adapter_id == row.id)).scalar_one()
    if count >= MAX_ALIASES:
        raise BadRequest(
            f"{reference} has {count} aliases, expected at most {MAX_ALIASES}; remove one first.",
            param="alias",
            code="alias_limit_reached",
        )
