"""When a file is there, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.core.clock import following, now
from server.core.errors import NotFound
from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.batch_tables import BATCHES
from server.db.database import Database
from server.db.retention import DAY_S, Retention, rules_of
from server.db.training_tables import FILES
from server.db.upload_tables import UPLOADS
from server.training.files.rows import PREFIX, delete_expired, delete_file, get_file, insert_file, list_files
from server.training.files.storage import FileStorage
from server.training.files.sweep import file_rule
from server.training.files.uploads import UploadRule


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


def add_file(connection: sa.Connection, **values: Any) -> str:
    file_id = new_id(PREFIX)
    row = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "location": file_id, "created_at": 0, **values}
    return insert_file(connection, id=file_id, tenant_id=DEFAULT_TENANT_ID, purpose="batch", **row).id  # type: ignore[no-any-return]


def rows_of(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(FILES.c.id)).scalars())


def test_a_deleted_file_keeps_no_row_but_what_refers_to_it_does(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    numbers = ("total", "completed", "failed", "result_bytes", "prompt_tokens", "cached_tokens", "completion_tokens")
    counts = dict.fromkeys((*numbers, "reasoning_tokens", "attempts"), 0)
    times = {"created_at": 1, "expires_at": 2}
    with database.write() as connection:
        add_file(connection, expires_at=5)
        alone, read, written, uploaded, kept = (add_file(connection) for _ in range(5))
        batch = {"id": "batch_1", "endpoint": "/v1/completions", "status": "completed", "completed_at": 3}
        connection.execute(
            BATCHES.insert().values(
                **batch, **times, **counts, tenant_id=DEFAULT_TENANT_ID, input_file_id=read, output_file_id=written
            )
        )
        upload = {"id": "upload_1", "purpose": "batch", "filename": "f", "bytes": 1, "status": "completed"}
        connection.execute(UPLOADS.insert().values(**upload, **times, tenant_id=DEFAULT_TENANT_ID, file_id=uploaded))
        for file_id in (alone, read, written, uploaded):
            delete_file(connection, DEFAULT_TENANT_ID, file_id)
    assert len(expired(database)) == 1
    assert rows_of(database) == {read, written, uploaded, kept}
    UploadRule(FileStorage(f"{tmp_path}/files")).remove(database, now(), 10)
    assert rows_of(database) == {read, written, kept}
    (batches,) = (rule for rule in rules_of(settings) if rule.what == "batches")
    assert batches.remove(database, now(), 10) == 1
    assert rows_of(database) == {kept}


def test_expired_files_are_found_without_a_look_at_those_that_are_deleted(app_database: Database) -> None:
    plans: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        plan = connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        plans.append(" ".join(row[3] for row in plan))

    with app_database.write() as connection:
        add_file(connection, expires_at=5)
        sa.event.listen(connection, "before_cursor_execute", hear)
        assert len(delete_expired(connection, 0, 10)) == 1
    search, _, forget = plans
    for name in ("expires_at", "created_at"):
        assert f"USING INDEX ix_files_live_{name} ({name}<" in search.replace("COVERING ", "")
    assert "SCAN" not in search + forget


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
