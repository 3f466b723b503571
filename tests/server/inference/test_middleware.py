"""What the middleware does to bodies, headers and streams on their way."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from tests.server.support.fake_engine import BASE, FakeEngine

JSON = {"content-type": "application/json"}
ONES = [1.0] * 13


NO_OBJECTS = [b"[1,2]", b"", b"9" * 400, b"[" * 150 + b"]" * 150]
OBJECT = b'{"model": "acme/base-135m",   "prompt": "\\u00e9", "temperature": 1e-3, "a": 1.0}'


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", OBJECT), *((path, body) for path in ("/v1/completions", "/tokenize") for body in NO_OBJECTS)],
)
async def test_body_without_an_adapter_passes_byte_for_byte(client: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await client.post(path, content=body, headers=JSON)
    assert (response.status_code, response.content) == (200, body)
    assert (response.headers["x-active"], response.headers["x-length"]) == ("base", str(len(body)))


@pytest.mark.parametrize(
    "path", ["/v1/completions", "/tokenize", "/v1/responses", "/v1/adapters/a", "/v1/webhook_endpoints"]
)
@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        (b"not json", "The body is not valid JSON: expected value (line 1, column 2).", None),
        (b"\xff\xfe", "The body is not text in UTF-8 (line 1, column 1).", None),
        (b'{"a": ' + b"9" * 5000 + b"}", "a: is 999", "a"),
        (b'{"a":' * 8000, "The body is nested too deeply: more than 200", None),
    ],
)
async def test_json_that_cannot_be_read_is_refused_in_the_same_words_everywhere(
    client: httpx.AsyncClient, path: str, body: bytes, said: str, param: str | None
) -> None:
    method = "PATCH" if path.startswith("/v1/adapters") else "POST"
    response = await client.request(method, path, content=body, headers=JSON)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert error["message"].startswith(said)


async def test_adapter_is_taken_out_and_the_model_replaced(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", json={"name": "acme/math", "vector": ONES})
    body = {"prompt": "é😀", "adapter": "acme/math", "model": BASE, "seed": 2**60, "stop": None}
    for path in ("/v1/completions", "/tokenize"):
        response = await client.post(path, json=body)
        sent = json.loads(response.content)
        assert sent.pop("cache_salt", None) == ("tenant-1" if path == "/v1/completions" else None)
        assert sent == {"prompt": "é😀", "model": "acme/math@1", "seed": 2**60, "stop": None}
        assert response.headers["x-active"] == response.headers["x-tinylora-adapter"] == "acme/math@1"
        assert response.headers["x-length"] == str(len(response.content))


async def test_audio_is_refused_whoever_asks(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/transcriptions", files={"file": ("speech.wav", b"0" * 60_000)})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_supported")
    assert "could be neither queued nor counted" in response.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_is_refused(client: httpx.AsyncClient, chunked: bool) -> None:
    async def chunks() -> Any:
        for _ in range(51):
            yield b" " * 1000

    content = chunks() if chunked else b" " * 50_001
    response = await client.post("/v1/chat/completions", content=content, headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert "max_request_bytes" in response.json()["error"]["message"]


async def test_chunked_body_within_the_limit_is_served(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for piece in (b'{"adap', b'ter": {"vector": ', json.dumps(ONES).encode(), b'}, "messages": []}'):
            yield piece

    response = await client.post("/v1/chat/completions", content=chunks(), headers=JSON)
    assert response.headers["x-tinylora-adapter"].startswith("inline:")


async def test_one_requests_adapter_does_not_leak_into_the_next_of_the_same_context(client: httpx.AsyncClient) -> None:
    with_adapter = await client.post("/tokenize", json={"adapter": {"vector": ONES}})
    assert with_adapter.headers["x-active"].startswith("inline:")
    assert (await client.post("/tokenize", json={})).headers["x-active"] == "base"


async def test_concurrent_requests_run_with_their_own_adapters(client: httpx.AsyncClient) -> None:
    async def active(number: int) -> str:
        body = {"adapter": {"vector": [float(number)] * 13}, "messages": []}
        response = await client.post("/v1/chat/completions", json=body)
        text: str = response.json()["choices"][0]["message"]["content"]
        return text.partition(": ")[2]

    assert await asyncio.gather(*map(active, range(20))) == [str([float(number)] * 13) for number in range(20)]


def start_stream(app: FastAPI) -> tuple["asyncio.Task[None]", "asyncio.Queue[Any]", "asyncio.Queue[Any]"]:
    """A streamed request with an inline adapter, message by message: the running app, what it receives and sends."""
    body = json.dumps({"messages": [], "stream": True, "adapter": {"vector": ONES}}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip
    sent: asyncio.Queue[Any] = asyncio.Queue()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
    return asyncio.create_task(app(scope, incoming.get, sent.put)), incoming, sent


async def test_stream_is_passed_on_as_it_comes(app: FastAPI, engine: FakeEngine) -> None:
    engine.hold = asyncio.Event()
    running, _, sent = start_stream(app)
    start, first = await sent.get(), await sent.get()
    assert dict(start["headers"])[b"x-tinylora-adapter"].startswith(b"inline:")
    assert first["body"].startswith(b"data: ") and first["more_body"]
    assert sent.empty() and not running.done()  # the engine is waiting, and its first chunk is here
    engine.hold.set()
    await running
    rest = b"".join([sent.get_nowait()["body"] for _ in range(sent.qsize())])
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_client_that_leaves_a_stream_ends_it(app: FastAPI, engine: FakeEngine) -> None:
    engine.hold = asyncio.Event()
    running, incoming, sent = start_stream(app)
    await sent.get(), await sent.get()
    incoming.put_nowait({"type": "http.disconnect"})
    await running


async def test_client_that_leaves_before_its_body_is_complete_gets_no_answer(app: FastAPI) -> None:
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }  # fmt: skip
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b'{"mess', "more_body": True})
    incoming.put_nowait({"type": "http.disconnect"})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, incoming.get, send)
    assert sent == []
