"""The steps of one batch on a gateway that has its lease."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.batches import leases
from server.batches.answers import Result, Usage
from server.batches.run import BatchRun, NotMine
from server.batches.turns import claim
from server.db.batch_tables import BATCHES
from server.db.database import Database
from server.db.training_tables import FILES
from server.training.files.storage import FileStorage, StoredBytes
from tests.server.batches.conftest import Batches
from tests.server.support.batch_kit import line

OWNER = "gateway-a"


class HeldStorage(FileStorage):
    """Writes nothing before it may."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.is_asked, self.may_write = threading.Event(), threading.Event()

    def write(self, source: BinaryIO, location: str) -> StoredBytes:
        self.is_asked.set()
        assert self.may_write.wait(30)
        return super().write(source, location)


@pytest.mark.parametrize(
    ("cause", "status", "files"),
    [
        ({"status": "cancelling"}, "cancelled", 2),
        ({"expires_at": 1}, "expired", 3),
        ({"attempts": leases.MAX_ATTEMPTS + 1, "status": "cancelling"}, "failed", 2),
    ],
)
async def test_the_lease_is_renewed_while_files_of_a_batch_are_written_that_ended_early(
    app: FastAPI, app_database: Database, tmp_path: Path, cause: dict[str, Any], status: str, files: int
) -> None:
    storage = HeldStorage(f"{tmp_path}/files")
    tools = replace(app.state.batches._tools, files=storage, owner=OWNER)
    batch_id = Batches(app_database, count(1)).new()
    lines = f"{line('a')}\n{line('b')}".encode()

    def begin(to: sa.Connection) -> leases.Standing:
        FileStorage(f"{tmp_path}/files").write(io.BytesIO(lines), to.execute(sa.select(FILES.c.location)).scalar_one())
        claim(to, OWNER, 600)
        leases.record(to, app_database, batch_id, OWNER, [Result(1, False, "{}", Usage())], 600, 10**9)
        leases.change(to, batch_id, total=2, **cause)
        return leases.standing(to, batch_id, OWNER)

    def lease_expires_at() -> int:
        with app_database.read() as connection:
            return int(connection.execute(sa.select(BATCHES.c.lease_expires_at)).scalar_one())

    running = asyncio.create_task(BatchRun(tools, app_database.transact(begin)).go())
    try:
        assert await asyncio.to_thread(storage.is_asked.wait, 10)
        app_database.transact(lambda to: leases.change(to, batch_id, lease_expires_at=1))
        async with asyncio.timeout(10):
            while lease_expires_at() == 1:
                await asyncio.sleep(0.02)
    finally:
        storage.may_write.set()
    await running
    with app_database.read() as connection:
        assert connection.execute(sa.select(BATCHES.c.status)).scalar_one() == status
        assert len(connection.execute(sa.select(FILES.c.id)).all()) == files


async def test_a_lease_that_is_lost_before_the_last_answers_are_stored_ends_quietly(
    app: FastAPI, app_database: Database, tmp_path: Path
) -> None:
    storage = FileStorage(f"{tmp_path}/files")
    tools = replace(app.state.batches._tools, files=storage, owner=OWNER)
    batch_id = Batches(app_database, count(1)).new()

    def begin(to: sa.Connection) -> leases.Standing:
        text = line("a").encode()
        storage.write(io.BytesIO(text), to.execute(sa.select(FILES.c.location)).scalar_one())
        claim(to, OWNER, 600)
        leases.change(to, batch_id, total=1)
        mine = leases.standing(to, batch_id, OWNER)
        leases.change(to, batch_id, lease_owner="gateway-b")
        return mine

    with pytest.raises(NotMine):
        await BatchRun(tools, app_database.transact(begin)).go()
    with app_database.read() as connection:
        row = connection.execute(sa.select(BATCHES)).one()
    assert (row.status, row.lease_owner, row.completed) == ("in_progress", "gateway-b", 0)
