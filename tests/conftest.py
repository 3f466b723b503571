"""What all tests share: PostgreSQL, Redis and a browser, started when first asked for; how they run side by side.

Packages that only these need are imported with them: the tests of the engine run on a GPU machine that has none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.chromium import Visitor
    from tests.postgres import PostgresServer
    from tests.redis_server import RedisServer

WITH_ENGINES = ("tests/engine/", "tests/e2e/", "tests/benchmarks/test_gpu.py")
# Of these, some minutes of files that share no engine: for whichever process has done its own first.
LAST = ("tests/engine/test_families.py", "tests/engine/test_quantised.py", "tests/engine/test_sixteen_bits.py")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has a core; more threads would only wait for each other.
    torch.set_num_threads(1)

with suppress(ImportError):
    import hypothesis

    # How fast examples are drawn says nothing where two processes share two cores with real engines.
    hypothesis.settings.register_profile(
        "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("shared")


class EnginesInOneProcess(LoadScopeScheduling):
    """One process runs the tests that start real engines, from the beginning; the others run the rest meanwhile."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(LAST):
            return nodeid.partition("::")[0]
        return "engines" if nodeid.startswith(WITH_ENGINES) else nodeid


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "tests/e2e/chaos")
    group.addoption("--chaos-minutes", type=float, default=0, help="how long it runs; 0: a few hundred operations")
    group.addoption("--chaos-seed", type=int, default=1, help="what its operations are drawn from")
    group = parser.getgroup("clients", "tests/e2e/third_party_clients")
    group.addoption("--write-client-results", action="store_true", help="keep what works, for docs/clients.md")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> EnginesInOneProcess:
    return EnginesInOneProcess(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (item.nodeid.startswith(LAST), not item.nodeid.startswith(WITH_ENGINES)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real server."""
    from tests.postgres import running_server

    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """The name of a database with all tables and no connections, to copy."""
    from server.db.database import Database

    name = postgres.new_database()
    Database(postgres.url(name)).close()
    return name


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated_postgres: str) -> Iterator[str]:
    """The URL of a database of the test's own, with all tables."""
    name = postgres.new_database(migrated_postgres)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def running_redis() -> Iterator[RedisServer]:
    """A real server, as it is left by the tests before."""
    from tests.redis_server import RedisServer, find_program

    server = RedisServer(find_program())
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def redis_server(running_redis: RedisServer) -> RedisServer:
    """The same, empty and running."""
    running_redis.start_again()
    return running_redis


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A real browser; tests that need it are skipped where there is none.

    For one module: as long as Playwright runs, its event loop does, and no test of another module could run one.
    """
    from tests.chromium import NoChromium, running_chromium

    try:
        with running_chromium() as browser:
            yield browser
    except NoChromium as error:
        pytest.skip(str(error))


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """Makes visitors of a server; in the end their browsers have had nothing against its pages."""
    from tests.chromium import Visitor

    visitors: list[Visitor] = []

    def visit(base_url: str, **how: Any) -> Visitor:
        visitors.append(Visitor(chromium, base_url, **how))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.context.close()
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []
