"""A gateway on a real socket, over a fake engine, for commands and programs that pages show."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import with_admin_key


class Embedded(FakeEngine):
    """Under the name that the pages use."""

    def __init__(self, directory: Path) -> None:
        super().__init__(tiny_factors(directory))
        self.base_models = ("SmolLM2-135M-Instruct", "base-alias")


@contextmanager
def _serving(settings: Settings, directory: Path) -> Iterator[str]:
    database = Database(settings.database_url)
    app = create_app(settings, Embedded(directory), database)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        database.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path}/data/tinylora.db", files_url=f"{tmp_path}/files")


@pytest.fixture
def open_url(settings: Settings, tmp_path: Path) -> Iterator[str]:
    with _serving(settings, tmp_path) as url:
        yield url


@pytest.fixture
def keyed_url(settings: Settings, tmp_path: Path) -> Iterator[str]:
    with _serving(with_admin_key(settings), tmp_path) as url:
        yield url
