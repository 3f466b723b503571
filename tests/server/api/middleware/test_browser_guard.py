"""A server without keys, asked by web pages as browsers send their requests: what they say, no page can forge."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from server.api.app import create_app
from server.api.middleware.browser_guard import BrowserGuard
from server.api.middleware.cors import CorsRules
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key

EVIL = "http://evil.example"
VECTOR = {"content-type": "application/octet-stream"}
CHAT = "/v1/chat/completions"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def from_page(origin: str, site: str = "cross-site", mode: str = "cors") -> dict[str, str]:
    """What a browser says of a request that a page of `origin` makes with fetch()."""
    return {"origin": origin, "sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": "empty"}


def adapters_of(response: httpx.Response) -> list[str]:
    return [adapter["name"] for adapter in response.json()["data"]]


@pytest.fixture
async def opened(settings: Settings, engine: FakeEngine, app_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    """A server without keys whose operator allowed pages of one site, and one browser's extensions."""
    rules = CorsRules(("https://app.example", "moz-extension://*"))
    async with client_of(create_app(settings, engine, app_database, cors=rules)) as client:
        yield client


WRITES: dict[str, dict[str, Any]] = {
    "POST /v1/adapters?name=a": {"content": b"M>" * 13, "headers": VECTOR},
    "POST /v1/adapters": {"files": {"file": b"x"}, "data": {"name": "a"}},
    "POST /v1/files": {"files": {"file": ("a.jsonl", b"{}")}, "data": {"purpose": "fine-tune"}},
    "POST /v1/fine_tuning/jobs": {"content": b"{}", "headers": {"content-type": "text/plain"}},
    "POST /v1/fine_tuning/jobs/ftjob-1/cancel": {},
    f"POST {CHAT}": {"json": {"messages": []}},
    "DELETE /v1/adapters/kept": {},
    "GET /v1/models": {},
    "GET /health": {},
}


@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost:3000", "https://localhost", f"{EVIL}:80 http://x"])
async def test_a_page_of_another_site_gets_and_changes_nothing(
    client: httpx.AsyncClient, engine: FakeEngine, origin: str
) -> None:
    await client.post("/v1/adapters?name=kept", content=b"M>" * 13, headers=VECTOR)
    for what, request in WRITES.items():
        method, path = what.split()
        headers = {**request.get("headers", {}), **from_page(origin)}
        response = await client.request(method, path, **{**request, "headers": headers})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "origin_not_allowed"), what
        assert "access-control-allow-origin" not in response.headers
    assert adapters_of(await client.get("/v1/adapters")) == ["kept"]
    assert engine.received == []


async def test_the_refusal_names_the_flag_that_allows_the_page(client: httpx.AsyncClient) -> None:
    asked = await client.options(CHAT, headers={**PREFLIGHT, "origin": "chrome-extension://abcdef"})
    assert asked.status_code == 403
    assert """--allowed-origins '["chrome-extension://abcdef"]'""" in asked.json()["error"]["message"]
    hostile = await client.get("/health", headers={"origin": "http://x';rm -rf ~;'"})
    assert "--allowed-origins '[\"https://...\"]'" in hostile.json()["error"]["message"]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "made-up"])
async def test_a_request_that_has_no_origin_but_is_another_sites_is_refused(
    client: httpx.AsyncClient, site: str
) -> None:
    image = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    frame = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    for headers in (image, frame):
        assert (await client.get("/docs", headers=headers)).status_code == 403
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await client.get("/docs", headers=link)).status_code == 200
    assert (await client.post("/v1/adapters", headers=link)).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "localhost", "LOCALHOST:8000"])
async def test_pages_of_the_server_itself_work(client: httpx.AsyncClient, host: str) -> None:
    own = {"host": host, **from_page(f"http://{host.lower()}", site="same-origin")}
    assert (await client.post(CHAT, json={"messages": []}, headers=own)).status_code == 200
    docs = {"host": host, "sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await client.get("/docs", headers=docs)).status_code == 200
    schema = {"host": host, "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    assert (await client.get("/openapi.json", headers=schema)).status_code == 200


FOREIGN_HOSTS = (
    "attacker.example",
    "attacker.example:8000",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example:8000",
    "127.0.0.1@attacker.example",
    "192.168.1.7:8000",
    "[fe80::1]:8000",
    "0.0.0.0:8000",
    "[::]:8000",
    "localhost:8000:9000",
    "",
)


async def test_a_page_whose_name_was_pointed_at_this_machine_reads_nothing(client: httpx.AsyncClient) -> None:
    for host in FOREIGN_HOSTS:
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("DELETE", "/v1/adapters/a"), ("GET", "/no")):
            # To the browser it is a page of the server itself.
            headers = {"host": host, **from_page(f"http://{host}", site="same-origin")}
            response = await client.request(method, path, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "host_not_allowed"), host
    assert "TINYLORA_ALLOWED_HOSTS" in response.json()["error"]["message"]
    both = [("host", "localhost"), ("host", "attacker.example")]
    assert (await client.get("/v1/models", headers=both)).status_code == 403


async def test_a_request_without_a_host_is_told_to_send_one(client: httpx.AsyncClient) -> None:
    request = client.build_request("GET", "/v1/models")
    del request.headers["host"]
    response = await client.send(request)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "host")
    assert "Host: localhost:8000" in response.json()["error"]["message"]


async def test_the_operator_may_name_other_hosts(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    named = settings.model_copy(update={"allowed_hosts": "llm.example, *.Internal.example"})
    async with client_of(create_app(named, engine, app_database)) as client:
        for host in ("llm.example", "LLM.example:443", "a.internal.example:80", "localhost"):
            page = {"host": host, **from_page(f"https://{host.lower()}", site="same-origin")}
            assert (await client.get("/v1/models", headers={"host": host})).status_code == 200, host
            if not host.endswith(":80"):
                assert (await client.get("/v1/models", headers=page)).status_code == 200, host
        for host in ("internal.example", "xllm.example", "llm.example.evil.example"):
            assert (await client.get("/v1/models", headers={"host": host})).status_code == 403, host


async def test_pages_that_the_operator_allowed_use_the_server_and_read_its_errors(opened: httpx.AsyncClient) -> None:
    for origin in ("https://app.example", "moz-extension://0b1c-22"):
        asked = await opened.options(CHAT, headers={**PREFLIGHT, "origin": origin})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
        answered = await opened.post(CHAT, json={"messages": []}, headers=from_page(origin))
        missing = await opened.post(CHAT, json={"messages": [], "adapter": "no"}, headers=from_page(origin))
        rebound = await opened.get("/health", headers={**from_page(origin), "host": "attacker.example"})
        assert [r.status_code for r in (answered, missing, rebound)] == [200, 404, 403]
        for response in (asked, answered, missing, rebound):
            assert response.headers["access-control-allow-origin"] == origin
            assert "Origin" in response.headers["vary"]
    for origin in (EVIL, "https://app.example.evil.example", "moz-extension://a/b", "https://app.example:444", "null"):
        for refused in (
            await opened.options(CHAT, headers={**PREFLIGHT, "origin": origin}),
            await opened.post(CHAT, json={"messages": []}, headers=from_page(origin)),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("credentials", [False, True])
async def test_every_page_may_be_allowed(
    settings: Settings, engine: FakeEngine, app_database: Database, credentials: bool
) -> None:
    app = create_app(settings, engine, app_database, cors=CorsRules(("*",), credentials=credentials))
    async with client_of(app) as client:
        response = await client.get("/v1/models", headers=from_page(EVIL))
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == (EVIL if credentials else "*")
        assert (await client.get("/v1/models", headers={"sec-fetch-site": "cross-site"})).status_code == 200
        assert (await client.get("/v1/models", headers={"host": "attacker.example"})).status_code == 403


async def test_programs_send_nothing_of_the_kind_and_notice_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.post(CHAT, json={"messages": []})).status_code == 200
    assert (await client.post("/v1/adapters?name=a", content=b"M>" * 13, headers=VECTOR)).status_code == 201


async def test_with_keys_the_key_decides(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    app = create_app(with_admin_key(settings), engine, app_database, cors=CorsRules(("https://app.example",)))
    async with client_of(app) as client:
        elsewhere = {"host": "llm.example", **from_page("https://app.example")}
        nobody = await client.post(CHAT, json={"messages": []}, headers=elsewhere)
        somebody = await client.post(CHAT, json={"messages": []}, headers={**elsewhere, **bearer(ADMIN_KEY)})
        broken = await client.post("/v1/fail/key", json={}, headers={**elsewhere, **bearer(ADMIN_KEY)})
        plain = await client.post(CHAT, content="{}", headers={**elsewhere, **bearer(ADMIN_KEY)})
        assert [r.status_code for r in (nobody, somebody, broken, plain)] == [401, 200, 500, 415]
        for response in (nobody, somebody, broken, plain):
            assert response.headers["access-control-allow-origin"] == "https://app.example"
            assert "x-request-id" in response.headers["access-control-expose-headers"]
        other = await client.post(CHAT, json={"messages": []}, headers={**from_page(EVIL), **bearer(ADMIN_KEY)})
        assert other.status_code == 200
        assert "access-control-allow-origin" not in other.headers
        asked = await client.options(CHAT, headers={**PREFLIGHT, "origin": EVIL})
        assert (asked.status_code, asked.json()["error"]["code"]) == (403, "origin_not_allowed")


TYPES = ("text/plain", "text/plain;application/json", "application/x-www-form-urlencoded", "text/x+json", "")


@pytest.mark.parametrize("content_type", TYPES)
async def test_json_that_a_web_form_could_send_is_not_read(
    app: FastAPI, client: httpx.AsyncClient, content_type: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    for route, method in routes_with_json(app):
        path = route.path_format.format_map(dict.fromkeys(route.param_convertors, "x"))
        response = await client.request(method, path, content=b'{"a": "b"}', headers=headers)
        assert response.status_code == 415, path
        assert "application/json" in response.json()["error"]["message"]


def routes_with_json(app: FastAPI) -> list[tuple[APIRoute, str]]:
    """The routes whose documentation says that they take a JSON body, and how they are called."""
    found = []
    documented = app.openapi()["paths"]
    for route in app.routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method, operation in documented[route.path_format].items():
            body = operation.get("requestBody", {}).get("content", {})
            # Of tenants and keys nothing can be asked on a server without keys.
            closed = route.path.startswith(("/v1/tenants", "/v1/keys"))
            if "application/json" in body and method.upper() in route.methods and not closed:
                found.append((route, method.upper()))
    assert len(found) > 10
    return found


async def test_what_is_not_said_to_be_json_is_read_where_there_is_nothing_to_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/fine_tuning/jobs/ftjob-0/cancel")
    assert (response.status_code, json.loads(response.content)["error"]["code"]) == (404, "job_not_found")


async def _greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def test_websockets_are_checked_as_well() -> None:
    app = Starlette(routes=[WebSocketRoute("/v1/realtime", _greet)])
    guarded = BrowserGuard(app, allowed_hosts=(), cors=CorsRules(("https://app.example",)))
    url = "ws://localhost:8000/v1/realtime"
    with TestClient(guarded) as client:
        for headers in ({}, {"origin": "http://localhost:8000"}, {"origin": "https://app.example"}):
            with client.websocket_connect(url, headers=headers) as websocket:
                assert websocket.receive_text() == "hello"
        for headers in ({"origin": EVIL}, {"host": "attacker.example"}):
            with (
                pytest.raises(WebSocketDenialResponse) as denied,
                client.websocket_connect(url, headers=headers),
            ):
                pass
            assert denied.value.status_code == 403
