"""Headers that proxies, probes and clients of other APIs send and look for."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute

from server.api.own_route import OwnRoute
from server.core.paths import REFUSED_ROUTES
from server.launch.http_server import KEEP_ALIVE_S, keep_alive_s
from tests.server.support.fake_engine import BASE
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer

CHAT = "/v1/chat/completions"
VECTOR = {"vector": [1.0] * 13}


async def test_streams_are_held_back_by_no_proxy(client: httpx.AsyncClient) -> None:
    streamed = await client.post(CHAT, json={"messages": [], "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert (streamed.headers["x-accel-buffering"], streamed.headers["cache-control"]) == ("no", "private, no-cache")
    assert "x-accel-buffering" not in (await client.post(CHAT, json={"messages": []})).headers


async def test_no_shared_cache_keeps_an_answer(operator: Operator) -> None:
    """It knows answers by their address, and two tenants may have adapters of one name."""
    with_key = {"x-api-key": ADMIN_KEY}
    upload = {"name": "weights.bin", **VECTOR}
    assert (await operator.http.post("/v1/adapters", json=upload, headers=with_key)).status_code == 201
    for path in ("/v1/adapters/weights.bin", "/v1/adapters/weights.bin/vector", "/v1/models", "/v1/no", "/usage"):
        for headers in (with_key, {}):
            answer = await operator.http.get(path, headers=headers)
            assert answer.headers["cache-control"] == "private, no-cache", path
    kept = {
        **with_key,
        "if-none-match": (await operator.http.get("/v1/adapters/weights.bin", headers=with_key)).headers["etag"],
    }
    assert (await operator.http.get("/v1/adapters/weights.bin", headers=kept)).status_code == 304
    for path in ("/ready", CHAT):
        assert (await operator.send("GET", path)).headers["cache-control"] == "private, no-cache"
    key = await operator.send("POST", "/v1/tenants/default/keys", json={"name": "k"})
    assert key.headers["cache-control"] == "no-store"
    assert (await operator.http.get("/console/")).headers["cache-control"] == "no-cache"


async def test_an_answer_of_the_base_model_says_so(client: httpx.AsyncClient) -> None:
    for path in (CHAT, "/v1/completions"):
        assert (await client.post(path, json={"messages": []})).headers["x-tinylora-adapter"] == "none"
        own = await client.post(path, json={"messages": [], "adapter": VECTOR})
        assert own.headers["x-tinylora-adapter"].startswith("inline:")
    assert "x-tinylora-adapter" not in (await client.post("/tokenize", json={"prompt": "x"})).headers


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, deflate", "x"])
async def test_an_encoded_body_is_refused_wherever_it_goes(
    app: FastAPI, client: httpx.AsyncClient, encoding: str
) -> None:
    body = gzip.compress(json.dumps({"messages": []}).encode())
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        path = route.path_format.format_map(dict.fromkeys(route.param_convertors, "x"))
        for method in (route.methods or set()) & {"POST", "PUT", "PATCH"}:
            if path.startswith(("/v1/tenants", "/v1/keys")):
                continue  # nobody's, on a server without keys
            headers = {"content-encoding": encoding, "content-type": "application/json"}
            response = await client.request(method, path, content=body, headers=headers)
            assert response.status_code == 415, path
            assert "without Content-Encoding" in response.json()["error"]["message"]
            assert response.headers["accept-encoding"] == "identity"
    plain = await client.post(CHAT, json={"messages": []}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


async def test_a_content_type_too_long_to_be_parsed_is_refused(client: httpx.AsyncClient) -> None:
    """Also where no key is needed."""
    for method, path in (("GET", "/health"), ("POST", "/v1/chat/completions"), ("POST", "/v1/files")):
        for kind in ('application/json;"', "multipart/form-data;"):
            response = await client.request(method, path, headers={"content-type": kind + ";" * 5000})
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (400, "content-type", "invalid_value")


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", '"ISO-8859-1"', "x"])
@pytest.mark.parametrize("path", [CHAT, "/v1/adapters", "/tokenize"])
async def test_json_in_another_charset_is_refused(client: httpx.AsyncClient, path: str, charset: str) -> None:
    async def sent_as(charset: str) -> httpx.Response:
        headers = {"content-type": f"application/json; charset={charset}"}
        return await client.post(path, content=b'{"messages": []}', headers=headers)

    response = await sent_as(charset)
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_charset")
    for right in ("utf-8", "UTF-8", '"utf8"', "us-ascii"):
        assert (await sent_as(right)).status_code != 415


@pytest.mark.parametrize("charset", ["charset*=utf-8''x; charset*0=y", "charset*=a%00b''x"])
@pytest.mark.parametrize("path", [CHAT, "/v1/adapters", "/tokenize"])
async def test_a_charset_that_cannot_be_read_is_refused(client: httpx.AsyncClient, path: str, charset: str) -> None:
    headers = {"content-type": f"application/json; {charset}"}
    response = await client.post(path, content=b'{"messages": []}', headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "content-type", "invalid_value")
    assert "send JSON in UTF-8" in error["message"]


async def test_head_answers_as_get_without_a_body(app: FastAPI, operator: Operator) -> None:
    await operator.send("POST", "/v1/adapters", json={"name": "a", **VECTOR})
    paths = ("/health", "/ready", "/docs", "/v1/models", f"/v1/models/{BASE}", "/v1/adapters/a", "/adapters", "/v1/no")
    for path in (*paths, "/v1/adapters/a/vector", "/v1/files", "/usage?start_time=0", "/metrics"):
        got, head = await operator.send("GET", path), await operator.send("HEAD", path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        volatile = ("x-request-id", "content-length") if path == "/metrics" else ("x-request-id",)
        for name in got.headers.keys() - set(volatile):
            assert head.headers[name] == got.headers[name], (path, name)
    assert (await operator.http.head("/health")).status_code == 200
    assert (await operator.http.head("/v1/models")).status_code == 401
    assert (await operator.send("HEAD", CHAT)).status_code == 405


async def test_a_condition_that_would_not_be_looked_at_is_refused(keyed_app: FastAPI, operator: Operator) -> None:
    documented = keyed_app.openapi()["paths"]
    taken = 0
    for route in (route for route in keyed_app.routes if isinstance(route, OwnRoute) and route.include_in_schema):
        path = route.path_format.format_map(dict.fromkeys(route.param_convertors, "x"))
        for method in route.methods or ():
            parameters = documented[route.path_format][method.lower()].get("parameters", ())
            is_taken = "If-Match" in {parameter["name"] for parameter in parameters}
            taken += is_taken
            for name in ("if-match", "if-none-match"):
                response = await operator.send(method, path, headers={name: '"none"'})
                error = response.json().get("error", {}) if response.status_code == 400 else {}
                refused = (error.get("param"), error.get("code")) == (name, "not_supported")
                assert refused == (not is_taken and (method, name) != ("GET", "if-none-match")), (method, path, name)
                assert not refused or f"takes no {name.title()}" in error["message"]
    assert taken > 8


async def test_a_file_that_the_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    form = {"data": {"purpose": "batch"}, "files": {"file": ("a.jsonl", b"content")}}
    file_id = (await client.post("/v1/files", **form)).json()["id"]  # type: ignore[arg-type]
    path = f"/v1/files/{file_id}/content"
    tag = (await client.get(path)).headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = await client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag), known
    assert (await client.get(path, headers={"if-none-match": '"other"'})).content == b"content"
    assert (await client.get(path, headers={"if-match": tag})).content == b"content"
    assert (await client.get(path, headers={"if-match": '"other"'})).status_code == 412
    assert (await client.delete(f"/v1/files/{file_id}", headers={"if-match": '"other"'})).status_code == 400
    assert (await client.get(path)).content == b"content"


async def test_a_refused_method_is_told_all_that_the_path_takes(app: FastAPI, operator: Operator) -> None:
    methods: dict[str, set[str]] = {}
    for path, operations in app.openapi()["paths"].items():
        # Names have slashes, so that some paths of adapters and models are others' too.
        if not path.startswith(("/v1/adapters/", "/v1/models/")):
            methods[path.replace("{", "").replace("}", "")] = {method.upper() for method in operations}
    methods["/v1/adapters/x"] = {"GET", "PATCH", "DELETE"}
    assert {"GET", "POST"} == methods["/v1/files"]
    methods = {path: known for path, known in methods.items() if path not in REFUSED_ROUTES}
    for path, known in methods.items():
        taken = ", ".join(sorted(known | ({"HEAD"} if "GET" in known else set())))
        for method in {"PUT", "PATCH", "DELETE", "POST", "TRACE"} - known:
            response = await operator.send(method, path)
            assert (response.status_code, response.headers.get("allow")) == (405, taken), (method, path)
            assert response.json()["error"]["message"] == f"{path} takes {taken}, not {method}."


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "X-API-Key"])
async def test_keys_are_taken_where_other_clients_put_them(operator: Operator, header: str) -> None:
    key = await operator.new_key("acme", "infer")
    assert (await operator.http.get("/v1/models", headers={header: key})).status_code == 200
    assert (await operator.http.get("/v1/adapters", headers={header: key})).status_code == 403
    assert (await operator.http.get("/v1/models", headers={header: "wrong"})).status_code == 401
    # Of two keys the bearer's counts, also to be refused; a password for a proxy is no key.
    both = {header: key, **bearer("wrong")}
    assert (await operator.http.get("/v1/models", headers=both)).status_code == 401
    proxy = {header: key, "authorization": "Basic dTpw"}
    assert (await operator.http.get("/v1/models", headers=proxy)).status_code == 200


def test_idle_connections_are_kept_longer_than_peers_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_alive_s({}) == KEEP_ALIVE_S > 60
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "7")
    assert keep_alive_s({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "7"}) == 7


def test_requests_behind_each_other_on_one_connection_are_logged_apart(
    keyed_app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    server = uvicorn.Server(uvicorn.Config(keyed_app, port=0, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    known = f"authorization: Bearer {ADMIN_KEY}\r\nx-request-id: first\r\n"
    requests = "".join(
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"
        for path, headers in (
            ("/v1/models/none", known),
            ("/v1/fail/x", ""),
            ("/v1/fail/x", "connection: close\r\n"),
        )
    )
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=10) as connection:
        connection.sendall(requests.encode())
        while connection.recv(65_536):
            pass
    server.should_exit = True
    thread.join()
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    first, second, third = (line for line in lines if line["event"] == "request")
    assert (first["request_id"], first["status"]) == ("first", 404)
    assert len({line["request_id"] for line in (first, second, third)}) == 3
    for line in (second, third):
        assert (line["status"], line["tenant"]) == (401, None)
        assert "engine_request_id" not in line


async def test_the_engine_never_sees_the_clients_id_of_a_request(
    client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for _ in range(2):
        body = {"messages": [], "request_id": "twice"}
        response = await client.post("/v1/completions", json=body, headers={"x-request-id": "twice"})
        assert response.headers["x-request-id"] == "twice"
        assert "request_id" not in response.json()
        seen.append(response.headers["x-seen-request-id"])
    assert len({*seen, "twice"}) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["engine_request_id"] for line in lines] == seen
    assert {line["request_id"] for line in lines} == {"twice"}
