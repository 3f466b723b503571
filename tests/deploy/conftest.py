"""A gateway over a fake engine, and one that asks for keys on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import with_admin_key


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
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
