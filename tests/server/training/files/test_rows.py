"""When a file is there, on both databases."""

import pytest

from server.core.clock import following
from server.core.errors import NotFound
from server.core.ids import new_id
from server.core.principal import DEFAULT_TENANT_ID
from server.db.database import Database
from server.training.files.rows import PREFIX, delete_expired, get_file, insert_file


def test_a_file_goes_at_its_second(database: Database) -> None:
    file_id = new_id(PREFIX)
    values = {"filename": "f", "bytes": 1, "sha256": "0" * 64, "location": "there", "created_at": 0, "expires_at": 5000}
    with database.write() as connection:
        insert_file(connection, id=file_id, tenant_id=DEFAULT_TENANT_ID, purpose="fine-tune", **values)
    with following(lambda: 4999.9):
        assert database.transact(delete_expired) == []
        with database.read() as connection:
            assert get_file(connection, DEFAULT_TENANT_ID, file_id).id == file_id
    with following(lambda: 5000):
        with database.read() as connection, pytest.raises(NotFound):
            get_file(connection, DEFAULT_TENANT_ID, file_id)
        assert database.transact(delete_expired) == ["there"]
