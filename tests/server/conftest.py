"""One gateway over a fake engine and a fresh database, by an httpx client, the official openai client or a socket."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import httpx
import openai
import pytest
from fastapi import FastAPI

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from server.api.app import create_app
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.registry.creation import NewVersion, create_versions
from server.registry.store import Registry
from server.registry.versions import StoredVersion
from server.training.jobs.protocol import PROTOCOL_HEADERS
from tests.postgres import PostgresServer
from tests.server.support.fake_engine import FakeEngine, tiny_factors
from tests.server.support.keyed import Operator, with_admin_key
from tests.server.support.process import Process
from tests.server.support.served import served


@pytest.fixture(scope="session")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Factors:
    return tiny_factors(tmp_path_factory.mktemp("factors"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database_url=f"sqlite:///{tmp_path}/data/tinylora.db",
        files_url=f"{tmp_path}/files",
        max_file_bytes=10_000,
        max_upload_bytes=100_000,
        max_request_bytes=50_000,
        max_mixed_adapters=4,
        max_labelled_adapters=2,
        health_timeout_s=1.0,
        log_format="json",
    )


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables and no connections, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "tinylora.db"
    Database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database of each kind for all tests of a module, empty to begin with."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('module')}/tinylora.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.new_database()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database, of each kind."""
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def app_database(settings: Settings, tmp_path: Path, migrated_sqlite: Path) -> Iterator[Database]:
    """The app's own, of one kind: what differs between databases is tested below HTTP."""
    (tmp_path / "data").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "data")
    database = Database(settings.database_url)
    yield database
    database.close()


@pytest.fixture
async def process(database_url: str) -> AsyncIterator[Process]:
    """A gateway's part that uses the database, on each kind."""
    process = Process.on(database_url)
    yield process
    await process.close()


@pytest.fixture
async def other_process(process: Process, database_url: str) -> AsyncIterator[Process]:
    """Another gateway on the same database."""
    other = Process.on(database_url)
    yield other
    await other.close()


@pytest.fixture
def engine(factors: Factors) -> FakeEngine:
    return FakeEngine(factors)


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    return create_app(settings, engine, app_database)


@pytest.fixture
def registry(app: FastAPI) -> Registry:
    """The app's own."""
    registry: Registry = app.state.gateway.registry
    return registry


class Store(Protocol):
    def __call__(
        self, name: str, adapter: Adapter, metadata: Mapping[str, str] | None = None, tenant_id: int = DEFAULT_TENANT_ID
    ) -> StoredVersion: ...


@pytest.fixture
def store(app_database: Database) -> Store:
    """Stores a version in the app without HTTP."""

    def store(
        name: str, adapter: Adapter, metadata: Mapping[str, str] | None = None, tenant_id: int = DEFAULT_TENANT_ID
    ) -> StoredVersion:
        with app_database.write() as connection:
            items = [NewVersion(name, adapter, metadata or {})]
            [entry] = create_versions(app_database, connection, tenant_id, items)
            return entry.stored

    return store


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app) as client:
        yield client


@pytest.fixture
def keyed_app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    """A gateway on which keys are checked."""
    return create_app(with_admin_key(settings), engine, app_database)


@pytest.fixture
async def operator(keyed_app: FastAPI) -> AsyncIterator[Operator]:
    """The operator of `keyed_app`."""
    async with client_of(keyed_app) as client:
        yield Operator(client)


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """A client that may also speak as a worker of this version does."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", headers=PROTOCOL_HEADERS)


@pytest.fixture
def base_url(app: FastAPI) -> Iterator[str]:
    """The gateway on a real socket."""
    with served(app) as url:
        yield url


@pytest.fixture
def openai_client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0) as client:
        yield client
