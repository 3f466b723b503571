"""/console over HTTP: its files are anyone's to read, under a strict policy; nothing else of the server is."""

import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.api.routes.console import read_console
from server.api.static_files import POLICY
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import with_admin_key

DIRECTORY = Path("server/api/console")


@pytest.mark.parametrize("keyed", [False, True])
async def test_every_file_is_served_to_anyone_under_the_policy(
    keyed: bool, settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(with_admin_key(settings) if keyed else settings, engine, app_database)
    async with client_of(app) as client:
        paths = {f"/console/{file.relative_to(DIRECTORY)}" for file in DIRECTORY.rglob("*") if file.is_file()}
        assert paths | {"/console/"} == read_console().keys()
        for path in (*paths, "/console/"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert (await client.head(path)).headers["etag"] == answer.headers["etag"]
            again = await client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await client.get("/console")).headers["location"] == "console/"
        assert (await client.get("/console/js/main.js")).headers["content-type"] == "text/javascript; charset=utf-8"


async def test_with_keys_nothing_else_becomes_public(keyed_app: FastAPI) -> None:
    async with client_of(keyed_app) as client:
        for method, path in [
            ("POST", "/console/"),
            ("GET", "/console/nothing.js"),
            ("GET", "/console/../../pyproject.toml"),
            ("GET", "/console/%2e%2e/%2e%2e/pyproject.toml"),
            ("GET", "/consoles"),
            ("GET", "/v1/adapters"),
        ]:
            answer = await client.request(method, httpx.URL(f"http://localhost{path}"))
            assert answer.status_code == 401, (method, path)


async def test_what_is_not_there_is_said_in_openais_shape(client: httpx.AsyncClient) -> None:
    answer = await client.get("/console/js/nothing.js")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert "/console/js/nothing.js" in answer.json()["error"]["message"]


async def test_pages_of_other_sites_cannot_use_it(client: httpx.AsyncClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}):
        assert (await client.get("/console/js/main.js", headers=headers)).status_code == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await client.get("/console/", headers=link)).status_code == 200


@pytest.mark.parametrize("keyed", [False, True])
async def test_it_can_be_switched_off(
    keyed: bool, settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    settings = settings.model_copy(update={"console": False})
    async with client_of(create_app(with_admin_key(settings) if keyed else settings, engine, app_database)) as client:
        for path in ("/console", "/console/", "/console/js/main.js"):
            assert (await client.get(path)).status_code == (401 if keyed else 404)


def test_files_have_nothing_inline_and_nothing_of_other_sites() -> None:
    # The policy would forbid it; a page that needs it would be broken, and only in browsers.
    for path, file in read_console().items():
        text = file.content.decode()
        assert not re.search(r"insertAdjacentHTML|document\.write|\beval\(|new Function|\.(inner|outer)HTML", text), (
            path
        )
        assert not re.search(r"https?://(?!www\.w3\.org/)[a-z]", text), path
        if path.endswith(".html"):
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text), path
