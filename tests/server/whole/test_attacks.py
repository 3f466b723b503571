"""What somebody would try who wants more than a key allows, or the server's memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.core.paths import MODEL_ROUTES
from server.launch.bounded_http import MAX_HEAD_BYTES, BoundedHttp
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer

CHAT = "/v1/chat/completions"
ONES = [1.0] * 13


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[socket.socket]:
    """A connection to the app, served as the real one is."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False, http=BoundedHttp))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with socket.create_connection(server.servers[0].sockets[0].getsockname(), timeout=10) as connection:
        yield connection
    server.should_exit = True
    thread.join()


def sent(connection: socket.socket, *pieces: bytes) -> bytes:
    """The first line of the answer to the pieces, of which the server may refuse to hear all."""
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
    with contextlib.suppress(ConnectionError):
        return connection.recv(65_536).partition(b"\r\n")[0]
    return b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost", b"403"),
        (b"GET HTTP://evil.example:80/v1/models HTTP/1.0\r\nhost: localhost", b"403"),
        (b"GET http://localhost@evil.example/v1/models HTTP/1.1\r\nhost: localhost", b"403"),
        (b"GET http://localhost/v1/models HTTP/1.1\r\nhost: evil.example", b"200"),
        (b"GET http://[::1]:8000/v1/models?limit=1 HTTP/1.1\r\nhost: [::1]:8000", b"200"),
        (b"GET //evil.example/v1/models HTTP/1.1\r\nhost: localhost", b"404"),
        (b"GET /v1/models HTTP/1.1\r\naccept: */*", b"400"),
        (b"GET /v1/models HTTP/1.0\r\naccept: */*", b"200"),
    ],
)
def test_a_server_without_keys_knows_the_host_of_every_request(app: FastAPI, head: bytes, status: bytes) -> None:
    with listening(app) as connection:
        line = sent(connection, head + b"\r\nconnection: close\r\n\r\n")
    assert line.split()[1] == status


LINE = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"
PIECE = b"x" * 4096
ENDLESS = {
    "many headers": [LINE, *[b"x-%d: %s\r\n" % (number, PIECE) for number in range(64)]],
    "one long header": [LINE, b"x: ", *[PIECE] * 64],
    "a long path": [b"GET /", *[PIECE] * 64],
    "a long name": [LINE, *[PIECE] * 64],
}


@pytest.mark.parametrize("pieces", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_head_without_end_is_refused_before_any_key_is_asked_for(keyed_app: FastAPI, pieces: list[bytes]) -> None:
    with listening(keyed_app) as connection:
        # The answer is lost where the connection is cut while the client still sends.
        assert sent(connection, *pieces) in (b"HTTP/1.1 431 Request Header Fields Too Large", b"")
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while connection.recv(65_536):
                pass  # the end of the connection, not a timeout


def test_long_headers_bodies_and_connections_are_served(keyed_app: FastAPI) -> None:
    headers = LINE + b"x: " + b"x" * (MAX_HEAD_BYTES - 1000) + b"\r\nauthorization: Bearer %s\r\n" % ADMIN_KEY.encode()
    with listening(keyed_app) as connection:
        for _ in range(3):
            assert sent(connection, headers, b"\r\n") == b"HTTP/1.1 200 OK"
        upload = b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 400000\r\n\r\n"
        assert sent(connection, upload, *[b"x" * 4000] * 100) == b"HTTP/1.1 401 Unauthorized"


async def test_a_body_of_any_type_is_bounded(client: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 10_000

    for content_type in ("text/plain", "application/octet-stream", "multipart/form-data; boundary=b", ""):
        for path in (CHAT, "/v1/completions", "/tokenize", "/v1/audio", "/no/such/route"):
            headers = {"content-type": content_type} if content_type else {}
            response = await client.post(path, content=endless(), headers=headers)
            refused = (415, "unsupported_media_type") if path in MODEL_ROUTES else (413, "request_too_large")
            assert (response.status_code, response.json()["error"]["code"]) == refused, path


SMUGGLED = (
    b'{"prompt": "x", "cache\\u005fsalt": "tenant-2", "priority": 7}',
    b'\xef\xbb\xbf{"prompt": "x", "cache_salt": "tenant-2", "priority": 7}',
)
UNREADABLE = (
    b'{"prompt": "x", "cache_salt": "tenant-2", "cache_salt": "tenant-2", "priority": 0, "priority": 7}',
    '{"prompt": "x", "cache_salt": "tenant-2", "priority": 7}'.encode("utf-16"),
    '{"prompt": "x", "cache_salt": "tenant-2", "priority": 7}'.encode("utf-32-le"),
)


async def test_a_salt_cannot_be_written_so_that_only_the_engine_sees_it(client: httpx.AsyncClient) -> None:
    types = ("application/json", "Application/JSON ; charset=UTF-8", "application/x+json")
    path = "/v1/completions?cache_salt=tenant-2&priority=-1"
    for body, content_type in itertools.product((*SMUGGLED, *UNREADABLE), types):
        response = await client.post(path, content=body, headers={"content-type": content_type})
        seen = json.loads(response.content)
        if body in UNREADABLE:
            assert (response.status_code, seen["error"]["code"]) == (400, "invalid_json")
        else:
            assert (seen["cache_salt"], seen["priority"]) == ("tenant-1", 7)


async def test_of_two_equal_fields_none_is_taken(client: httpx.AsyncClient) -> None:
    for body in (b'{"priority": 0, "priority": -1}', b'{"adapter": "nobody", "adapter": null, "prompt": "x"}'):
        response = await client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


TRICKS = (
    "/v1/adapters/../tenants",
    "/v1/adapters/..%2Ftenants",
    "/v1/adapters/%2E%2E/tenants",
    "/v1/adapters%2F..%2Ftenants",
    "/v1/adapters;/../tenants",
    "/v1/models/..%2f..%2fmetrics",
    "/adapters/../v1/tenants",
    "/adapters%2F..%2F..%2Fv1%2Ftenants",
    "//v1/tenants",
    "/v1//tenants",
    "/v1/tenants/",
    "/v1/tenants%00",
    "/v1/tenants%0A",
    "/v1/chat/completions%0A",
    "/metrics%0A",
    "/health%0A",
    "/V1/tenants",
    "/v1/chat/completions/../../tenants",
    "/metrics/",
    "/metrics%2F",
    "/health/../metrics",
    "/docs/../metrics",
    "/openapi.json/../v1/tenants",
    "/v1/tenants?x=/health",
    "/v1/keys",
)


async def test_no_spelling_of_a_path_reaches_more_than_the_key_allows(operator: Operator) -> None:
    key = await operator.new_key("acme", "infer", "adapters", "train")
    headers = {**bearer(key), "x-http-method-override": "GET", "x-original-url": "/health"}
    methods = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY")
    for path, method in itertools.product(TRICKS, methods):
        # httpx would tidy the path up.
        url = operator.http.base_url.copy_with(raw_path=path.encode())
        response = await operator.http.request(method, url, headers=headers)
        assert response.status_code in (400, 403, 404, 405), (method, path, response.text)
        assert "tinylora_" not in response.text and '"tenant"' not in response.text
        nobody = await operator.http.request(method, url)
        assert nobody.status_code == 401, (method, path)


async def test_a_question_of_a_browser_gets_no_further_than_its_answer(operator: Operator, engine: FakeEngine) -> None:
    preflight = {"origin": "https://example.com", "access-control-request-method": "POST"}
    for path in ("/v1/adapters", "/v1/tenants", "/metrics", "/v1/usage", "/v1/worker/claim", CHAT, "/nowhere"):
        response = await operator.http.request("OPTIONS", path, headers=preflight, json={"adapter": "x"})
        assert response.status_code == 401, (path, response.text)
    for method in ("GET", "POST", "DELETE"):
        assert (await operator.http.request(method, "/v1/adapters", headers=preflight)).status_code == 401
    assert engine.received == []


SPELLINGS = ("globex", "GLOBEX", "globex ", " globex", "../globex", "1", "2", "*", "globex,acme", "", "\xe9")


async def test_a_tenant_is_not_another_by_any_spelling(operator: Operator) -> None:
    await operator.make_tenant("globex")
    key = await operator.new_key("acme", "infer", "adapters")

    async def post(*organizations: str) -> int:
        headers = [(b"openai-organization", name.encode("latin-1")) for name in organizations]
        headers.append((b"authorization", f"Bearer {key}".encode()))
        body = {"name": "a", "vector": ONES}
        return (await operator.http.post("/v1/adapters", headers=headers, json=body)).status_code

    for name in SPELLINGS:
        assert await post(name) == 403, name
        # Whichever of two headers is looked at, another's tenant is never acted for.
        assert {await post("acme", name), await post(name, "acme")} <= {201, 403}, name
    globex = {**bearer(ADMIN_KEY), "openai-organization": "globex"}
    assert (await operator.http.get("/v1/adapters", headers=globex)).json()["data"] == []


# A letter of another width, one of no width, one of another alphabet.
LOOKALIKES = ("\uff41cme", "acme\u200b", "\u0430cme", "acme%00", "Acme/", "/acme", "acme//x", "..", "a/../b", "~")


async def test_names_that_look_like_others_are_refused(client: httpx.AsyncClient) -> None:
    for name in LOOKALIKES:
        uploaded = await client.post("/v1/adapters", json={"name": name, "vector": ONES})
        asked = await client.post(CHAT, json={"messages": [], "adapter": name})
        for response in (uploaded, asked):
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_name"), name


async def test_a_request_id_is_not_repeated_unless_it_is_fit_for_it(client: httpx.AsyncClient) -> None:
    for sent in ("a\nb", "x" * 129, "<script>", "%0d%0aset-cookie: x", "\xe9", ""):
        response = await client.get("/health", headers=[(b"x-request-id", sent.encode("latin-1"))])
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"]), sent


async def test_a_client_that_sends_nothing_more_holds_no_place_in_the_queue(
    app: FastAPI, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    slow: list[asyncio.Task[Any]] = []
    never = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"messages": '
        await never.wait()

    headers = {"content-type": "application/json"}
    for _ in range(4 * engine.max_num_seqs):
        slow.append(asyncio.create_task(client.post(CHAT, content=body(), headers=headers)))
    await asyncio.sleep(0)
    assert (await client.post(CHAT, json={"messages": []})).status_code == 200
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


def test_every_path_of_a_url_is_one_path(base_url: str) -> None:
    """What uvicorn makes of a path is what both the keys and the routes look at."""
    host = urlsplit(base_url)
    with socket.create_connection((host.hostname, host.port), timeout=5) as connection:
        answer = sent(connection, b"GET /v1/adapters/%2e%2e%2fmetrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer == b"HTTP/1.1 400 Bad Request"
