"""Who may do what: keys and scopes, as httpx, a websocket and the official client meet them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse
from vllm.entrypoints.serve.instrumentator.metrics import attach_router

from server.api.app import create_app
from server.api.routes.docs_page import read_docs
from server.auth.scopes import scope_of
from server.core.paths import OPEN_PATHS
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer, expire, with_admin_key

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
# The whole API by the beginnings of its paths; whatever else there is, is the operator's.
INTENDED = {
    "/v1/chat/completions": "infer",
    "/v1/completions": "infer",
    "/v1/models": "infer",
    "/v1/messages": "infer",
    "/v1/limits": "infer",
    "/v1/responses": "infer",
    "/v1/audio/transcriptions": "infer",
    "/tokenize": "infer",
    "/v1/adapters": "adapters",
    "/v1/usage": "adapters",
    "/v1/organization/usage/completions": "adapters",
    "/v1/audit": "adapters",
    "/v1/batches": "infer",
    "/v1/files": "train",
    "/v1/uploads": "train",
    "/v1/fine_tuning": "train",
    "/v1/webhook_endpoints": "train",
    "/v1/webhook_event_types": "train",
    "/v1/tenants": "admin",
    "/v1/worker": "admin",
    "/metrics": "admin",
    "/v1/fail": "admin",  # the fake engine's
    "/docs": "admin",  # what is no file of it; its files take no key
    "/console": "admin",  # what is no file of it; its files take no key
}


def routes_of(routes: Any) -> Iterator[tuple[str, str]]:
    """Every method and path, with something in the place of its parameters."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes)
        else:
            path = "".join("x" if part.startswith("{") else part for part in _split(route.path))
            yield from ((method, path) for method in sorted(getattr(route, "methods", None) or ()))


def _split(path: str) -> list[str]:
    return path.replace("{", "\0{").replace("}", "}\0").split("\0")


def test_every_route_takes_the_scope_that_is_intended_for_it(keyed_app: FastAPI) -> None:
    paths = {path for _, path in routes_of(keyed_app.routes)} - OPEN_PATHS
    assert len(paths) > 20
    for path in paths:
        (scope,) = {scope for prefix, scope in INTENDED.items() if path == prefix or path.startswith(f"{prefix}/")}
        assert scope_of("GET", path) == scope, path


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/sleep", "/inference/v1/abort_requests", "/v1/adapterss", "//v1/models", "/", ""]
)
def test_what_is_not_named_takes_the_scope_admin(path: str) -> None:
    assert scope_of("GET", path) == "admin"


async def test_without_a_key_everything_but_probes_and_documentation_is_refused(
    keyed_app: FastAPI, operator: Operator
) -> None:
    requests = [
        *routes_of(keyed_app.routes),
        ("GET", "/no/such/route"),
        ("GET", "/adapters"),
        ("OPTIONS", "/v1/models"),
    ]
    assert len(requests) > 30
    for method, path in requests:
        response = await operator.http.request(method, path)
        if method in ("GET", "HEAD") and path in {*OPEN_PATHS, *read_docs(), "/console/"}:
            assert response.status_code == 200, path
            continue
        if (method, path) == ("GET", "/console"):
            assert response.headers["location"] == "console/"
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["x-request-id"]
        if method != "HEAD":
            error = response.json()["error"]
            assert error["type"] == "authentication_error"
            assert path == "/v1/messages" or error["code"] == "invalid_api_key"  # Anthropic's has no code
            assert "Authorization: Bearer <key>" in error["message"]


async def test_probes_take_no_other_method_without_a_key(operator: Operator) -> None:
    for path in {*OPEN_PATHS, "/console/"}:
        assert (await operator.http.post(path, json={"adapter": "a"})).status_code == 401


async def test_any_key_is_told_that_what_is_open_to_be_read_takes_no_other_method(operator: Operator) -> None:
    key = await operator.new_key("acme", "infer")
    for path in [*OPEN_PATHS, "/console", "/console/", "/console/index.html"]:
        answers = [await operator.http.post(path, headers=bearer(sent)) for sent in (key, ADMIN_KEY)]
        assert [answer.status_code for answer in answers] == [405, 405], path
        assert answers[0].text == answers[1].text
    assert (await operator.http.post("/metrics", headers=bearer(key))).status_code == 403


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {ADMIN_KEY}",
        ADMIN_KEY,
        f"Bearer {ADMIN_KEY}x",
        f"Bearer x {ADMIN_KEY}",
        "Bearer é",
    ],
)
async def test_what_is_no_key_is_refused(operator: Operator, header: str) -> None:
    response = await operator.http.get("/v1/models", headers={"authorization": header.encode()})
    assert response.status_code == 401


@pytest.mark.parametrize("header", [f"bearer {ADMIN_KEY}", f"BEARER   {ADMIN_KEY} "])
async def test_the_scheme_may_be_written_in_any_case(operator: Operator, header: str) -> None:
    assert (await operator.http.get("/v1/models", headers={"authorization": header})).status_code == 200


async def test_keys_that_do_not_work_any_more_are_refused_like_keys_that_never_did(
    operator: Operator, app_database: Database
) -> None:
    await operator.make_tenant("acme")
    await operator.make_tenant("globex")
    tenants = ("acme", "acme", "acme", "globex")
    working, revoked, expired, disabled = [await operator.make_key(tenant) for tenant in tenants]
    await operator.send("POST", f"/v1/tenants/acme/keys/{revoked['id']}/revoke")
    await operator.send("PATCH", "/v1/tenants/globex", json={"disabled": True})
    expire(app_database, expired["id"])
    answers = []
    for key in (revoked["key"], expired["key"], disabled["key"], "sk-tl-" + "0" * 64):
        response = await operator.http.get("/v1/models", headers=bearer(key))
        headers = {name: value for name, value in response.headers.items() if name != "x-request-id"}
        answers.append((response.status_code, response.text, headers))
    assert answers == [answers[0]] * 4
    assert answers[0][0] == 401
    assert (await operator.http.get("/v1/models", headers=bearer(working["key"]))).status_code == 200


async def test_a_disabled_tenants_keys_work_again_when_it_is_enabled(operator: Operator) -> None:
    key = await operator.new_key("acme")
    for disabled, status in ((True, 401), (False, 200)):
        await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": disabled})
        assert (await operator.http.get("/v1/models", headers=bearer(key))).status_code == status


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("infer", {"/v1/models"}),
        ("adapters", {"/v1/adapters", "/adapters", "/v1/audit"}),
        ("train", set()),
        ("admin", {"/v1/models", "/v1/adapters", "/adapters", "/v1/audit", "/v1/tenants", "/metrics"}),
    ],
)
async def test_a_key_may_do_what_its_scopes_say(operator: Operator, scope: str, allowed: set[str]) -> None:
    key = (await operator.make_key("default", scope))["key"]
    statuses = {}
    for path in ("/v1/models", "/v1/adapters", "/adapters", "/v1/audit", "/v1/tenants", "/metrics"):
        response = await operator.http.get(path, headers=bearer(key))
        statuses[path] = response.status_code
        if response.status_code == 403:
            needed = scope_of("GET", path if path.startswith("/v1") or path == "/metrics" else f"/v1{path}")
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("permission_error", "insufficient_permissions")
            assert f"'{needed}'" in error["message"]
            assert f'scope="{needed}"' in response.headers["www-authenticate"]
    assert statuses == {path: 200 if path in allowed else 403 for path in statuses}


async def test_openais_client_tells_wrong_keys_from_those_that_may_not(keyed_app: FastAPI, operator: Operator) -> None:
    key = await operator.new_key("acme", "adapters")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(keyed_app))
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="wrong", http_client=http_client) as client:
        with pytest.raises(openai.AuthenticationError, match="unknown, revoked or expired"):
            await client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.PermissionDeniedError, match="scope 'infer'"):
            await client.with_options(api_key=key).chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "hi"}]
            )
        answer = await client.with_options(api_key=ADMIN_KEY).chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "hi"}]
        )
    assert answer.choices[0].message.content == "base"


async def test_a_refused_request_reaches_nothing_behind(operator: Operator, engine: FakeEngine) -> None:
    key = await operator.new_key("acme", "adapters")
    for headers in ({}, bearer("wrong"), bearer(key)):
        response = await operator.http.post("/v1/chat/completions", json={**CHAT, "adapter": "a"}, headers=headers)
        assert response.status_code in (401, 403)
    assert engine.received == []
    metrics = await operator.send("GET", "/metrics")
    assert "tinylora_adapter_resolves_total{" not in metrics.text


async def test_each_tenant_has_adapters_of_its_own(operator: Operator) -> None:
    acme, globex = [await operator.new_key(name, "infer", "adapters") for name in ("acme", "globex")]
    vector = {"name": "math", "vector": [1.0] * 13}
    assert (await operator.http.post("/v1/adapters", json=vector, headers=bearer(acme))).status_code == 201
    found = {
        key: await operator.http.get("/v1/adapters/math", headers=bearer(key)) for key in (acme, globex, ADMIN_KEY)
    }
    assert [response.status_code for response in found.values()] == [200, 404, 404]


async def test_an_admin_acts_for_a_tenant_by_the_official_clients_organization(
    keyed_app: FastAPI, operator: Operator
) -> None:
    acme = await operator.new_key("acme", "adapters")
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(keyed_app))
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key=ADMIN_KEY, organization="acme", http_client=http_client
    ) as client:
        await client.post("/adapters", cast_to=object, body={"name": "math", "vector": [1.0] * 13})
    assert (await operator.http.get("/v1/adapters/math", headers=bearer(acme))).status_code == 200
    entry = (await operator.http.get("/v1/audit", headers=bearer(acme))).json()["data"][0]
    assert (entry["tenant"], entry["api_key_id"], entry["action"]) == ("acme", None, "adapter.create")


async def test_a_tenants_audit_log_says_which_admins_key_acted_for_it(operator: Operator) -> None:
    await operator.make_tenant("acme")
    admin = await operator.make_key("default", "admin")
    for_acme = {**bearer(admin["key"]), "openai-organization": "acme"}
    await operator.http.post("/v1/adapters", json={"name": "math", "vector": [1.0] * 13}, headers=for_acme)
    entry = (await operator.http.get("/v1/audit", headers=for_acme)).json()["data"][0]
    assert (entry["tenant"], entry["api_key_id"], entry["action"]) == ("acme", admin["id"], "adapter.create")


async def test_a_tenants_key_may_only_name_its_own_tenant(operator: Operator) -> None:
    key = await operator.new_key("acme")
    await operator.make_tenant("globex")
    answers = {}
    for organization in ("acme", "globex", "nobody"):
        headers = {**bearer(key), "openai-organization": organization}
        answers[organization] = await operator.http.get("/v1/models", headers=headers)
    assert [answer.status_code for answer in answers.values()] == [200, 403, 403]
    # It does not tell whether there is such a tenant.
    assert answers["globex"].text == answers["nobody"].text.replace("nobody", "globex")
    assert answers["globex"].json()["error"]["code"] == "mismatched_organization"


@pytest.mark.parametrize("organization", ["nobody", "", "é", "a b"])
async def test_an_admin_who_names_no_tenant_gets_a_404(operator: Operator, organization: str) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "openai-organization": organization}
    encoded = {name: value.encode() for name, value in headers.items()}
    response = await operator.http.get("/v1/models", headers=encoded)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "tenant_not_found")


async def test_a_browsers_question_without_a_key_reaches_no_route(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(with_admin_key(settings), engine, app_database)
    attach_router(app)  # vLLM's own metrics, which answer any method
    question = {"origin": "https://example.com", "access-control-request-method": "GET"}
    async with client_of(app) as client:
        for path in ("/metrics", "/metrics/", "/metrics/x", "/v1/chat/completions", "/health", "/nowhere"):
            assert (await client.options(path, headers=question)).status_code == 401, path


def test_a_websocket_without_a_key_is_refused(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    class Talking(FakeEngine):
        def mount(self, app: FastAPI) -> None:
            super().mount(app)
            app.add_api_websocket_route("/v1/realtime", self._talk)

        async def _talk(self, websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text("hello")
            await websocket.close()

    client = TestClient(create_app(with_admin_key(settings), Talking(engine.factors), app_database))
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
        pass
    assert (refused.value.status_code, refused.value.json()["error"]["code"]) == (401, "invalid_api_key")
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/v1/realtime", headers=bearer(ADMIN_KEY)),
    ):
        pass
    assert (refused.value.status_code, refused.value.json()["error"]["code"]) == (404, "not_supported")


async def test_metrics_can_be_opened(settings: Settings, engine: FakeEngine, app_database: Database) -> None:
    async with client_of(
        create_app(with_admin_key(settings, metrics_without_key=True), engine, app_database)
    ) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401


async def test_the_log_says_who_asked(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    await operator.make_tenant("acme")
    key = await operator.make_key("acme")
    capsys.readouterr()
    await operator.http.get("/v1/models", headers=bearer(key["key"]))
    await operator.http.get("/v1/models", headers=bearer("wrong"))
    out = capsys.readouterr().out
    known, unknown = [json.loads(line) for line in out.splitlines()]
    assert (known["tenant"], known["key_id"]) == ("acme", key["id"])
    assert (unknown["tenant"], unknown["key_id"]) == (None, None)
    assert key["key"] not in out
    assert "wrong" not in out


async def test_a_server_without_keys_is_open_and_cannot_be_administered(client: httpx.AsyncClient) -> None:
    headers = {"authorization": "Bearer whatever", "openai-organization": "org-1"}
    vector = {"name": "math", "vector": [1.0] * 13}
    assert (await client.post("/v1/adapters", json=vector, headers=headers)).status_code == 201
    assert (await client.post("/v1/chat/completions", json={**CHAT, "adapter": "math"})).status_code == 200
    assert (await client.get("/metrics")).status_code == 200
    assert (await client.get("/no/such/route")).status_code == 404
    for method, path in (("GET", "/v1/tenants"), ("POST", "/v1/tenants"), ("GET", "/v1/tenants/default/keys")):
        response = await client.request(method, path)
        assert response.status_code == 403
        assert "TINYLORA_ADMIN_KEY" in response.json()["error"]["message"]


async def test_a_server_whose_database_holds_keys_checks_them_without_an_admin_key(
    operator: Operator, settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    key = await operator.new_key("acme")
    async with client_of(create_app(settings, engine, app_database)) as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
        assert (await client.get("/v1/models", headers=bearer(ADMIN_KEY))).status_code == 401
