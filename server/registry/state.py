"""What may change about an adapter, as it was at one revision, and what a reference stands for then.

It is small, since there is one in memory for every adapter in use; the versions themselves are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.core.names import Reference
from server.db.tables import ADAPTERS, ALIASES
from server.registry.alias_targets import Targets, pick_version, targets_from_json

_NO_ALIASES: Mapping[str, Targets] = {}


@dataclass(frozen=True, slots=True)
class AdapterState:
    """`latest_version` is None when the adapter is deleted."""

    revision: int
    latest_version: int | None
    public: bool
    aliases: Mapping[str, Targets]

    def version_of(self, reference: Reference, pick: float | None) -> int | None:
        """The version that `reference` stands for, which may be a deleted one if it names it; None for none."""
        if self.latest_version is None or (reference.version is None and reference.alias is None):
            return self.latest_version
        if reference.alias is None:
            return reference.version
        targets = self.aliases.get(reference.alias)
        return None if targets is None else pick_version(targets, pick)


def read_state(connection: Connection, adapter_id: int) -> AdapterState:
    """The state of an adapter that has a row."""
    row = connection.execute(sa.select(ADAPTERS).where(ADAPTERS.c.id == adapter_id)).one()
    aliases = connection.execute(sa.select(ALIASES).where(ALIASES.c.adapter_id == adapter_id)).all()
    targets = {alias.name: targets_from_json(alias.targets) for alias in aliases}
    return AdapterState(row.revision, row.latest_version, row.public, targets or _NO_ALIASES)
