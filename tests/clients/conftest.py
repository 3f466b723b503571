"""The gateway that the server's tests use, on a real socket, and a worker of it."""

import pytest

from server.core.settings import Settings
from tests.clients.training import meanwhile, rows, worker
from tests.server.conftest import app, app_database, base_url, engine, factors, migrated_sqlite, openai_client
from tests.server.conftest import settings as server_settings

SHARED = (
    app, app_database, base_url, engine, factors, meanwhile, migrated_sqlite, openai_client, rows, server_settings,
    worker,
)  # fmt: skip


@pytest.fixture
def settings(server_settings: Settings) -> Settings:
    # The server runs in the process whose output is looked at, and writes its log there.
    return server_settings.model_copy(update={"log_level": "error"})
