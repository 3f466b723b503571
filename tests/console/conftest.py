"""Gateways on real sockets whose engine really samples, from a tiny model: one without keys, and one with.

Pages that show what the gateway has, whatever the engine says, use the gateway of the server's tests, which answers at
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from adapters.factors.build import build_factors
from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.adapters.tiny_models import save_model
from tests.clients.training import worker
from tests.console.chatting_engine import ChattingEngine
from tests.server.conftest import (
    app,
    app_database,
    base_url,
    engine,
    factors,
    migrated_sqlite,
    openai_client,
    settings,
)
from tests.server.support.keyed import with_admin_key
from tests.server.support.served import served

SHARED = (app, app_database, base_url, engine, factors, migrated_sqlite, openai_client, settings, worker)


@dataclass(frozen=True)
class Server:
    """A gateway, and a client of it that is no browser."""

    url: str
    http: httpx.Client
    engine: ChattingEngine


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def model_factors(model_path: Path) -> Factors:
    return build_factors(model_path, rank=2, progress=False)


@pytest.fixture
def chatting_settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path}/tinylora.db", files_url=f"{tmp_path}/files", log_level="error",
        training_workers=0, evolution_workers=0,
    )  # fmt: skip


def running(settings: Settings, engine: ChattingEngine) -> Iterator[Server]:
    database = Database(settings.database_url)
    app = create_app(settings, engine, database)
    with served(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield Server(url, http, engine)
    database.close()


@pytest.fixture
def server(chatting_settings: Settings, model_path: Path, model_factors: Factors) -> Iterator[Server]:
    """Without keys."""
    yield from running(chatting_settings, ChattingEngine(model_path, model_factors))


@pytest.fixture
def keyed_server(chatting_settings: Settings, model_path: Path, model_factors: Factors) -> Iterator[Server]:
    """With the admin key of tests."""
    yield from running(with_admin_key(chatting_settings), ChattingEngine(model_path, model_factors))
