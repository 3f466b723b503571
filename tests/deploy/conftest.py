"""A gateway over a fake engine, and one that asks for keys on a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import with_admin_key
from tests.server.support.served import served


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path}/tinylora.db", files_url=f"{tmp_path}/files")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url)
    yield database
    database.close()


@pytest.fixture
def app(settings: Settings, database: Database, tmp_path: Path) -> FastAPI:
    return create_app(settings, FakeEngine(tiny_factors(tmp_path)), database)


@pytest.fixture
def keyed_url(settings: Settings, database: Database, tmp_path: Path) -> Iterator[str]:
    app = create_app(with_admin_key(settings), FakeEngine(tiny_factors(tmp_path)), database)
    with served(app) as url:
        yield url
