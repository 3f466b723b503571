"""Aliases of versions, `acme/math@prod`: what they stand for, and what they stood for before.

Functions of a connection. What moves an alias is in alias_changes.py; what a weighted one stands for in one request is
decided in alias_targets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.errors import NotFound
from server.core.names import Reference
from server.db.tables import ALIAS_MOVES, ALIASES
from server.registry.alias_targets import Targets, targets_from_json, targets_to_json
from server.registry.etags import content_etag
from server.registry.rows import adapter_not_found, visible_row

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


def get_alias(connection: Connection, tenant_id: int, reference: Reference, alias: str) -> Alias:
    """The alias as it is now. NotFound when there is none."""
    known = find_alias(connection, _visible(connection, tenant_id, reference).id, alias)
    if known is None:
        raise alias_not_found(reference, alias)
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
        raise alias_not_found(reference, alias)
    top = count if before is None else max(0, min(count, before - 1))
    rows = connection.execute(moves_of(row.id, alias).offset(count - top).limit(limit))
    moves = [
        Move(top - index, None if found.targets is None else targets_from_json(found.targets), found.created_at)
        for index, found in enumerate(rows)
    ]
    return moves, top > limit


def find_alias(connection: Connection, adapter_id: int, alias: str) -> Alias | None:
    """The alias of the adapter that has this id, if there is one."""
    row = connection.execute(
        sa.select(ALIASES).where(ALIASES.c.adapter_id == adapter_id, ALIASES.c.name == alias)
    ).one_or_none()
    return None if row is None else _alias(row)


def moves_of(adapter_id: int, alias: str) -> sa.Select[Any]:
    """Its moves, newest first."""
    moves = sa.select(ALIAS_MOVES).where(ALIAS_MOVES.c.adapter_id == adapter_id, ALIAS_MOVES.c.name == alias)
    return moves.order_by(ALIAS_MOVES.c.id.desc())


def alias_not_found(reference: Reference, alias: str) -> NotFound:
    return NotFound(
        f"There is no alias {alias} of {reference}; GET /v1/adapters/{reference}/aliases lists those there are.",
        param="alias",
        code="alias_not_found",
    )


def _visible(connection: Connection, tenant_id: int, reference: Reference) -> Row[Any]:
    row = visible_row(connection, tenant_id, reference)
    if row.latest_version is None:
        raise adapter_not_found(reference)
    return row


def _alias(row: Row[Any]) -> Alias:
    return Alias(row.name, targets_from_json(row.targets), row.moved_at)
