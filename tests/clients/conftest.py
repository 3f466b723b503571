"""The gateway that the server's tests use, on a real socket."""

import pytest

from server.core.settings import Settings
from tests.server.conftest import app, app_database, base_url, engine, factors, migrated_sqlite, openai_client
from tests.server.conftest import settings as server_settings

SHARED = (app, app_database, base_url, engine, factors, migrated_sqlite, openai_client, server_settings)


@pytest.fixture
def settings(server_settings: Settings) -> Settings:
    # The server runs in the process whose output is looked at, and writes its log there.
    return server_settings.model_copy(update={"log_level": "error"})
