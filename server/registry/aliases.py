"""Aliases of versions: `acme/math@prod`, moved to another version, or to several with weights, in one step.

Every move of an alias, and its removal, is a row that stays: a rollback reads the last two, and is itself a move.
Setting an alias to what it stands for already is no move.

Functions of a connection; those that change something are to be run by `server.api.writes`. What a weighted alias
stands for in one request is decided in alias_targets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, Forbidden, NotFound
from server.core.names import Reference
from server.db.tables import ADAPTER_VERSIONS, ALIAS_MOVES, ALIASES
from server.registry.alias_targets import Targets, targets_from_json, targets_to_json
from server.registry.etags import NO_PRECONDITION, Precondition, content_etag
from server.registry.rows import adapter_not_found, locked_row, raise_revision, remove_alias_row, visible_row

MAX_ALIASES = 64  # of one adapter; all of them are in memory while it is in use


@dataclass(frozen=True, slots=True)
class Alias:
    """What an alias stands for since `moved_at`, in seconds since 1970."""

    name: str
    targets: Targets
    moved_at: int

    @property
    def etag(self) -> str:
        return content_etag({"versions": targets_to_json(self.targets), "moved_at": self.moved_at})


@dataclass(frozen=True, slots=True)
class Move:
    """What an alias was moved to; None when it was removed. The first move of an alias is number 1."""

    number: int
    targets: Targets | None
    created_at: int


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
        raise _alias_not_found(reference, alias)
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
    moves = connection.execute(_moves(row.id, alias).limit(2)).all()
    if not moves:
        raise _alias_not_found(reference, alias)
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


def get_alias(connection: Connection, tenant_id: int, reference: Reference, alias: str) -> Alias:
    """The alias as it is now. NotFound when there is none."""
    known = _find(connection, _visible(connection, tenant_id, reference).id, alias)
    if known is None:
        raise _alias_not_found(reference, alias)
    return known


def list_aliases(connection: Connection, tenant_id: int, reference: Reference) -> list[Alias]:
    """All aliases of one adapter, by name; at most MAX_ALIASES."""
    row = _visible(connection, tenant_id, reference)
    rows = connection.execute(sa.select(ALIASES).where(ALIASES.c.adapter_id == row.id).order_by(ALIASES.c.name))
    return [_alias(found) for found in rows]


def alias_moves(
    connection: Connection,
    tenant_id: int,
    reference: Reference,
    alias: str,
    *,
    before: int | None = None,
    limit: int = 20,
) -> tuple[list[Move], bool]:
    """The alias's moves with numbers below `before`, newest first, and whether there are more. NotFound without any."""
    row = _visible(connection, tenant_id, reference)
    count = connection.execute(
        sa.select(sa.func.count()).where(ALIAS_MOVES.c.adapter_id == row.id, ALIAS_MOVES.c.name == alias)
    ).scalar_one()
    if count == 0:
        raise _alias_not_found(reference, alias)
    top = count if before is None else max(0, min(count, before - 1))
    rows = connection.execute(_moves(row.id, alias).offset(count - top).limit(limit))
    moves = [
        Move(top - index, None if found.targets is None else targets_from_json(found.targets), found.created_at)
        for index, found in enumerate(rows)
    ]
    return moves, top > limit


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
    known = _find(connection, row.id, alias)
    precondition.check(None if known is None else known.etag)
    return row, known


def _visible(connection: Connection, tenant_id: int, reference: Reference) -> Row[Any]:
    row = visible_row(connection, tenant_id, reference)
    if row.latest_version is None:
        raise adapter_not_found(reference)
    return row


def _find(connection: Connection, adapter_id: int, alias: str) -> Alias | None:
    row = connection.execute(
        sa.select(ALIASES).where(ALIASES.c.adapter_id == adapter_id, ALIASES.c.name == alias)
    ).one_or_none()
    return None if row is None else _alias(row)


def _alias(row: Row[Any]) -> Alias:
    return Alias(row.name, targets_from_json(row.targets), row.moved_at)


def _moves(adapter_id: int, alias: str) -> sa.Select[Any]:
    moves = sa.select(ALIAS_MOVES).where(ALIAS_MOVES.c.adapter_id == adapter_id, ALIAS_MOVES.c.name == alias)
    return moves.order_by(ALIAS_MOVES.c.id.desc())


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


def _alias_not_found(reference: Reference, alias: str) -> NotFound:
    return NotFound(
        f"There is no alias {alias} of {reference}; GET /v1/adapters/{reference}/aliases lists those there are.",
        param="alias",
        code="alias_not_found",
    )
