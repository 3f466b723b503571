"""A gateway as its database sees it: connections, point reads and a registry with a memory of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from sqlalchemy.engine import Connection

from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.core.names import parse_reference
from server.core.principal import DEFAULT_TENANT_ID
from server.db.database import Database
from server.db.point_reads import PointReads, open_point_reads
from server.db.tables import TENANTS
from server.registry import alias_changes, aliases, deletion
from server.registry.creation import NewVersion, create_versions
from server.registry.store import Registry
from server.registry.versions import StoredVersion

T = TypeVar("T")


def adapter(value: float = 0.5, **recipe: int) -> Adapter:
    """An adapter of `value`s."""
    made = Recipe(**recipe)
    return Adapter.from_vector(torch.full((made.groups, made.u), value), made, "a" * 64, "bfloat16")


@dataclass(frozen=True)
class Process:
    """Writes are committed when a method returns."""

    database: Database
    reads: PointReads
    registry: Registry
    tenant_id: int = DEFAULT_TENANT_ID

    @classmethod
    def on(cls, url: str) -> Process:
        """Another process on the database at `url`."""
        database = Database(url)
        reads = open_point_reads(database)
        return cls(database, reads, Registry(database, reads))

    async def close(self) -> None:
        await self.reads.close()
        self.database.close()

    def of(self, tenant_id: int) -> Process:
        """The same process, for another tenant."""
        return Process(self.database, self.reads, self.registry, tenant_id)

    def write(self, do: Callable[[Connection], T]) -> T:
        with self.database.write() as connection:
            return do(connection)

    def read(self, do: Callable[[Connection], T]) -> T:
        with self.database.read() as connection:
            return do(connection)

    def create(self, name: str, value: float = 0.5, metadata: Mapping[str, str] | None = None) -> StoredVersion:
        made = adapter(value)
        items = [NewVersion(name, made, metadata or {})]
        [entry] = self.write(lambda to: create_versions(self.database, to, self.tenant_id, items))
        return entry.stored

    async def resolve(self, reference: str, pick: float | None = None) -> StoredVersion:
        return await self.registry.resolve(self.tenant_id, parse_reference(reference, "name"), pick=pick)

    def delete(self, reference: str) -> list[int]:
        return self.write(lambda to: deletion.delete(to, self.tenant_id, parse_reference(reference, "name")))

    def restore(self, reference: str) -> list[int]:
        return self.write(lambda to: deletion.restore(to, self.tenant_id, parse_reference(reference, "name")))

    def purge(self, reference: str) -> list[int]:
        return self.write(lambda to: deletion.purge(to, self.tenant_id, parse_reference(reference, "name")))

    def set_alias(self, name: str, alias: str, targets: Mapping[int, float]) -> aliases.Alias:
        reference = parse_reference(name, "name")
        return self.write(lambda to: alias_changes.set_alias(to, self.tenant_id, reference, alias, targets)[0])

    def roll_back(self, name: str, alias: str) -> aliases.Alias:
        reference = parse_reference(name, "name")
        return self.write(lambda to: alias_changes.rollback_alias(to, self.tenant_id, reference, alias))

    def remove_alias(self, name: str, alias: str) -> None:
        reference = parse_reference(name, "name")
        self.write(lambda to: alias_changes.remove_alias(to, self.tenant_id, reference, alias))

    def aliases(self, name: str) -> dict[str, Mapping[int, float]]:
        reference = parse_reference(name, "name")
        found = self.read(lambda of: aliases.list_aliases(of, self.tenant_id, reference))
        return {alias.name: alias.targets for alias in found}

    def versions(self, name: str, *, deleted: bool = False) -> list[int]:
        page = self.registry.versions(self.tenant_id, parse_reference(name, "name"), limit=100, deleted=deleted)
        return [entry.stored.version for entry in page.items]

    def new_tenant(self, name: str, max_adapters: int | None = None) -> Process:
        """The same process, for a new tenant."""
        values = {"name": name, "created_at": 0, "adapter_count": 0, "weight": 1.0, "max_adapters": max_adapters}
        insert = TENANTS.insert().values(values).returning(TENANTS.c.id)
        return self.of(self.write(lambda to: to.execute(insert).scalar_one()))
