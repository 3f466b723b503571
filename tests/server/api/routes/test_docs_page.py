"""/docs over HTTP: who may read it, under which policy, and that it can be left out."""

from __future__ import annotations

import httpx

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import with_admin_key


async def test_it_is_anyones_to_read(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    async with client_of(create_app(with_admin_key(settings), engine, app_database)) as client:
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy and "default-src 'none'" in policy
        assert {(await client.get(path)).status_code for path in ("/docs/swagger-ui.css", "/openapi.json")} == {200}
        assert {(await client.get(path)).status_code for path in ("/docs/other.js", "/redoc")} == {401}


async def test_without_docs_neither_page_nor_description_is_there(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    async with client_of(create_app(settings, engine, app_database, docs=False)) as client:
        answers: list[httpx.Response] = [await client.get(path) for path in ("/docs", "/openapi.json")]
        assert [answer.status_code for answer in answers] == [404, 404]
