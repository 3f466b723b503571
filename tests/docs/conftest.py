"""A gateway on a real socket, over a fake engine, for commands and programs that pages show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.deploy.conftest import database
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import with_admin_key
from tests.server.support.served import served

SHARED = (database,)


class Embedded(FakeEngine):
    """Under the name that the pages use."""

    def __init__(self, directory: Path) -> None:
        super().__init__(tiny_factors(directory))
        self.base_models = ("SmolLM2-135M-Instruct", "base-alias")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # Where the pages say that the server has them.
    return Settings(database_url=f"sqlite:///{tmp_path}/data/tinylora.db", files_url=f"{tmp_path}/files")


@pytest.fixture
def factors(tmp_path: Path) -> Factors:
    """Those of the engine."""
    return tiny_factors(tmp_path / "factors")


@pytest.fixture
def open_url(settings: Settings, database: Database, tmp_path: Path) -> Iterator[str]:
    """Without keys."""
    with served(create_app(settings, Embedded(tmp_path), database)) as url:
        yield url


@pytest.fixture
def keyed_url(settings: Settings, database: Database, tmp_path: Path) -> Iterator[str]:
    """With an admin key."""
    with served(create_app(with_admin_key(settings), Embedded(tmp_path), database)) as url:
        yield url
