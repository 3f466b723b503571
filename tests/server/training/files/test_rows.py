"""When a file is there, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.core.clock import following
from server.core.errors import NotFound
from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.db.retention import DAY_S, Retention
from server.training.files.rows import PREFIX, delete_expired, get_file, insert_file, list_files
from server.training.files.storage import FileStorage
from server.training.files.sweep import file_rule


def expired(database: Database) -> list[str]:
    return database.transact(lambda connection: delete_expired(connection, 0, 10))


def test_a_file_goes_at_its_second(database: Database) -> None:
    file_id = new_id(PREFIX)
    values = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "location": "there", "created_at": 0, "expires_at": 5000}
    with database.write() as connection:
        insert_file(connection, id=file_id, tenant_id=DEFAULT_TENANT_ID, purpose="fine-tune", **values)
    with following(lambda: 4999.9):
        assert expired(database) == []
        with database.read() as connection:
            assert get_file(connection, DEFAULT_TENANT_ID, file_id).id == file_id
    with following(lambda: 5000):
        with database.read() as connection, pytest.raises(NotFound):
            get_file(connection, DEFAULT_TENANT_ID, file_id)
        assert expired(database) == ["there"]


@pytest.mark.parametrize(("now", "left"), [(10 * DAY_S, 2), (10 * DAY_S + 1, 1), (12 * DAY_S, 0)])
async def test_files_are_kept_for_so_many_days_and_then_go_with_their_bytes(
    database: Database, settings: Settings, tmp_path: Path, now: int, left: int
) -> None:
    storage = FileStorage(f"{tmp_path}/files")
    with database.write() as connection:
        for number, created_at in enumerate((0, DAY_S)):
            location = f"1/{number}"
            (tmp_path / "files" / "1").mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / location).write_bytes(b"x")
            values = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "location": location, "expires_at": None}
            row = {
                "id": new_id(PREFIX),
                "tenant_id": DEFAULT_TENANT_ID,
                "purpose": "fine-tune",
                "created_at": created_at,
            }
            insert_file(connection, **row, **values)
    rule = file_rule(settings.model_copy(update={"file_retention_days": 10}), storage)
    with following(lambda: now):
        await Retention(database, [rule]).sweep(asyncio.Event())
        assert len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == left
        await Retention(database, [file_rule(settings, storage)]).sweep(asyncio.Event())
        with database.read() as connection:
            page = list_files(connection, DEFAULT_TENANT_ID, after=None, limit=10, purpose=None, order="asc")
        assert len(page.rows) == left
