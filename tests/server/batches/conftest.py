"""Batches in a database, without a gateway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
import sqlalchemy as sa

from server.batches.rows import NewBatch, create_batch
from server.core.principal import DEFAULT_TENANT_ID
from server.db.batch_tables import BATCHES
from server.db.database import Database
from server.db.tables import TENANTS
from server.training.files.rows import insert_file


@dataclass
class Batches:
    """Makes tenants and batches, which run as far as the database knows once they are claimed."""

    database: Database
    numbers: Iterator[int]

    def new_tenant(self) -> int:
        """Its id."""
        name = f"tenant-{next(self.numbers)}"
        values = {"name": name, "created_at": 0, "adapter_count": 0, "weight": 1.0, "max_adapters": None}
        insert = TENANTS.insert().values(values).returning(TENANTS.c.id)
        return self.database.transact(lambda to: int(to.execute(insert).scalar_one()))

    def new(self, tenant_id: int = DEFAULT_TENANT_ID, *, most: int = 100) -> str:
        """The id of a batch whose file was valid; `most` of the tenant may not have ended."""

        def make(connection: sa.Connection) -> str:
            file = f"file-{next(self.numbers):028}"
            insert_file(
                connection, id=file, tenant_id=tenant_id, purpose="batch", filename="f", bytes=1, sha256="",
                location=file, created_at=1, expires_at=None,
            )  # fmt: skip
            made = create_batch(connection, tenant_id, None, NewBatch("/v1/chat/completions", file, None, None), most)
            connection.execute(BATCHES.update().where(BATCHES.c.id == made.id).values(status="in_progress"))
            return str(made.id)

        return self.database.transact(make)


@pytest.fixture
def batches(database_url: str) -> Iterator[Batches]:
    database = Database(database_url)
    yield Batches(database, count(1))
    database.close()
