"""What clients can make the server hold, and for how long they can keep it from everyone else."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.errors import Unavailable
from server.core.json_values import VALUE_BYTES, most_values
from server.core.off_loop import MAX_ON_LOOP_BYTES, off_loop
from server.core.request_body import read_body
from server.core.settings import Settings
from server.db.database import Database
from server.limits.body_memory import BodyMemory, BodyRoom
from tests.server.conftest import client_of
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, MODULES, FakeEngine

FORM = {"content-type": "multipart/form-data; boundary=x"}
CHAT, JSON = "/v1/chat/completions", {"content-type": "application/json"}
MIB = 2**20


def room_for(room: BodyRoom, tenant_id: int) -> int:
    """The most that the tenant may still take, found by trying."""
    low, high = 0, 10_000
    while low < high:
        middle = (low + high + 1) // 2
        try:
            room.take(tenant_id, middle)
        except Unavailable:
            high = middle - 1
        else:
            room.give_back(tenant_id, middle)
            low = middle
    return low


def test_a_tenant_may_hold_half_and_there_is_always_room_for_another() -> None:
    room = BodyRoom(1000, "max_held_body_bytes")
    left = []
    for tenant_id in range(4):
        left.append(room_for(room, tenant_id))
        room.take(tenant_id, left[-1])
        assert room_for(room, tenant_id) == 0
    assert left == [500, 250, 125, 62]
    room.give_back(0, 500)
    assert room.held_bytes == 437
    assert room_for(room, 0) == 281  # (1000 - 437) / 2
    for tenant_id, amount in ((1, 250), (2, 125), (3, 62)):
        room.give_back(tenant_id, amount)
    assert (room.held_bytes, room_for(room, 9)) == (0, 500)


def test_a_refusal_is_the_same_however_much_others_hold() -> None:
    refusals = []
    for of_another in (400, 100):
        room = BodyRoom(1000, "max_held_body_bytes")
        room.take(1, 100)
        room.take(2, of_another)
        with pytest.raises(Unavailable, match="100 bytes of your requests") as refused:
            room.take(1, 500)
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Room for 100,000 bytes, of which one tenant may have half."""
    return settings.model_copy(update={"max_held_body_bytes": 100_000})


@pytest.fixture
def small_app(small: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    return create_app(small, engine, app_database)


@pytest.fixture
async def small_client(small_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(small_app) as client:
        yield client


def form(length: int) -> bytes:
    """An upload of a file of so many bytes."""
    purpose = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"a" * length
    return purpose + file + b"\r\n--x--\r\n"


def chat(length: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x" * length}]}


async def test_bodies_are_held_until_their_requests_have_ended(
    small_client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    first = asyncio.create_task(small_client.post(CHAT, json=chat(30_000)))
    while not engine.received:
        await asyncio.sleep(0)
    refused = await small_client.post(CHAT, json=chat(30_000))
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "too_many_request_bytes"
    assert "max_held_body_bytes is 100000" in error["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert len(engine.received) == 1
    engine.hold.set()
    assert (await first).status_code == 200
    assert (await small_client.post(CHAT, json=chat(30_000))).status_code == 200


async def test_a_background_response_holds_its_body_until_it_has_ended(
    small_client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    body = {"model": BASE, "input": "x" * 30_000, "background": True}
    queued = (await small_client.post("/v1/responses", json=body)).json()
    assert queued["status"] == "queued"
    refused = await small_client.post("/v1/responses", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_request_bytes")
    engine.hold.set()
    while (await small_client.get(f"/v1/responses/{queued['id']}")).json()["status"] != "completed":
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):  # it is stored as completed a moment before its room is free
        while (await small_client.post("/v1/responses", json=body)).status_code == 503:
            await asyncio.sleep(0.01)


async def test_files_that_arrive_take_room_on_disk_and_none_in_memory(
    small: Settings, engine: FakeEngine, app_database: Database
) -> None:
    update = {"max_spooled_body_bytes": 200_000, "max_file_bytes": 100_000}
    app = create_app(small.model_copy(update=update), engine, app_database)
    act_as(app, {"other": principal(new_tenant(app_database, "other"), None, "train")}, before=BodyMemory)
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def slow_form() -> AsyncIterator[bytes]:
        yield form(60_000)[:50_000]
        arrived.set()
        await goes_on.wait()
        yield form(60_000)[50_000:]

    async with client_of(app) as client:
        first = asyncio.create_task(client.post("/v1/files", content=slow_form(), headers=FORM))
        await arrived.wait()
        refused = await client.post("/v1/files", content=form(80_000), headers=FORM)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "too_many_request_bytes")
        assert "max_spooled_body_bytes is 200000" in error["message"]
        other = await client.post("/v1/files", content=form(60_000), headers=FORM | {HEADER: "other"})
        assert other.status_code == 200, other.text
        assert (await client.post(CHAT, json=chat(40_000))).status_code == 200
        goes_on.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/files", content=form(80_000), headers=FORM)).status_code == 200


@pytest.mark.parametrize("path", ["/adapters", CHAT, "/v1/adapters/bulk", "/v1/fine_tuning/jobs"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_was_refused_or_failed_is_held_no_longer(
    small_client: httpx.AsyncClient, path: str, chunked: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(60):
            yield b"1" * 1000

    kind = {"content-type": "application/safetensors" if "bulk" in path else "application/json"}
    for _ in range(3):
        response = await small_client.post(path, content=pieces() if chunked else b"1" * 60_000, headers=kind)
        assert response.status_code == (413 if path == CHAT and not chunked else 503), response.text
    assert (await small_client.post(CHAT, json=chat(40_000))).status_code == 200


async def test_what_is_streamed_is_not_held(small_client: httpx.AsyncClient) -> None:
    lines = b"".join(json.dumps({"name": f"n{number}", "vector": [0.5] * 13}).encode() + b"\n" for number in range(900))
    assert len(lines) > 50_000
    bulk = await small_client.post("/adapters/bulk", content=lines, headers={"content-type": "application/x-ndjson"})
    assert json.loads(bulk.text.splitlines()[-1])["stored"] == 900


async def test_an_exported_file_is_held_until_it_is_sent(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    """Each counts as an upload of the greatest length: where one tenant may hold one and a half, two are too many."""
    room = {"max_upload_bytes": 40_000, "max_held_body_bytes": 120_000}
    app = create_app(settings.model_copy(update=room), engine, app_database)
    statuses: list[int] = []
    sent = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send_slowly(message: Any) -> None:
        statuses.extend([message["status"]] if "status" in message else [])
        await sent.wait()

    path = "/v1/adapters/export"
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"format=safetensors",
        "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http", "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("localhost", 80),
    }  # fmt: skip
    async with client_of(app) as client:
        slow = asyncio.create_task(app(scope, receive, send_slowly))
        while not statuses:
            await asyncio.sleep(0.001)
        refused = await client.get(path, params={"format": "safetensors"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_request_bytes")
        assert (await client.get(path)).status_code == 200
        sent.set()
        await slow
        assert (await client.get(path, params={"format": "safetensors"})).status_code == 200
    assert statuses == [200]


async def test_values_are_limited_whatever_their_length(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_request_values": 1000}), engine, app_database)
    async with client_of(app) as client:
        for text, status in (("[" + "1," * 996 + "1]", 200), ("[" + "1," * 998 + "1]", 413), ("[" + "[]," * 600, 413)):
            body = f'{{"prompt": {text}}}'.encode()
            response = await client.post("/v1/completions", content=body, headers=JSON)
            assert response.status_code == status, (len(text), response.text)
    assert "max_request_values" in response.json()["error"]["message"]


def values_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(values_of, value.values()))
    return 1 + (sum(map(values_of, value)) if isinstance(value, list) else 0)


@pytest.mark.parametrize(
    "value", [1, [], {}, [[]], [1], [[[[1]]]], {"a": {"b": [1, 2, {"c": []}]}}, [{}, {}], ["a,[b"], [1, 2, 3], {"a": 1}]
)
def test_there_are_never_more_values_than_counted(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=2), json.dumps(value, separators=(",", ":"))):
        assert values_of(value) <= most_values(text.encode())


async def test_values_are_held_with_their_bytes(small_client: httpx.AsyncClient) -> None:
    body = json.dumps({"prompt": [1] * 1000}).encode()
    assert len(body) < 5000 < 50_000 < 1000 * VALUE_BYTES
    assert (await small_client.post("/v1/completions", content=body, headers=JSON)).status_code == 503


async def test_a_body_in_many_pieces_takes_no_more_than_a_whole_one() -> None:
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        return {"type": "http.request", "body": bytes([sent % 256] * 16), "more_body": sent * 16 < 2 * MIB}

    tracemalloc.start()
    try:
        body = await read_body(httpx.Headers(), receive, 2 * MIB)  # type: ignore[arg-type]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) == 2 * MIB
    assert most < 6 * MIB


async def test_long_work_is_done_by_another_thread() -> None:
    loop = threading.get_ident()
    assert await off_loop(MAX_ON_LOOP_BYTES, threading.get_ident) == loop
    assert await off_loop(MAX_ON_LOOP_BYTES + 1, threading.get_ident) != loop
    with pytest.raises(ValueError, match="as raised"):
        await off_loop(MAX_ON_LOOP_BYTES + 1, _fail)


def _fail() -> None:
    raise ValueError("as raised")


@contextmanager
def calls_on_this_thread() -> Iterator[Counter[str]]:
    """How often the functions that go through every value or byte run on this thread in the block, by name: those that
    are called with something long, and the check of a single number. What the engine does is its own affair."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
        if event != "call" or name not in LONG_WORK or FakeEngine.__module__ in modules_of(frame):
            return
        if name == "server.registry.spec.number" or any(map(is_long, frame.f_locals.values())):
            calls[name] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def modules_of(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        # The engine's own framework reads the body for it.
        if frame.f_code.co_name == "get_body" or frame.f_globals.get("__name__") == "starlette.requests":
            yield FakeEngine.__module__
        frame = frame.f_back


def is_long(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(is_long, value.values()))
    if isinstance(value, list):
        return len(value) > 500 or any(map(is_long, value))
    if isinstance(value, torch.Tensor):
        return value.numel() > 500
    return isinstance(value, bytes | bytearray | str) and len(value) > 500


LONG_WORK = {"json.dumps", "server.core.json_values.most_values", "server.registry.spec.number"}
LONG_WORK |= {
    "server.core.json_text.parse_json",
    "server.inference.token_estimate._tokens",
    "adapters.vector.codec.numbers",
    "adapters.vector.codec.encode",
}


@pytest.mark.parametrize("form", ["inline", "mix", "upload", "text", "inline_base64"])
async def test_a_long_body_leaves_the_loop_to_others(
    settings: Settings, engine: FakeEngine, app_database: Database, factors: Factors, form: str
) -> None:
    app = create_app(
        settings.model_copy(update={"max_request_bytes": MIB, "max_upload_bytes": MIB}), engine, app_database
    )
    recipe = {"rank": 1, "u": 4096, "groups": len(MODULES)}
    numbers = [0.5] * 4096 * len(MODULES)
    inline: dict[str, Any] = {"vector": numbers, "recipe": recipe}
    path, body = CHAT, chat(10)
    if form == "inline":
        body["adapter"] = inline
    elif form == "inline_base64":
        body["adapter"] = {"vector": base64.b64encode(bytes(2 * len(numbers))).decode(), "recipe": recipe}
    elif form == "mix":
        body["adapter"] = [{"adapter": inline, "weight": 0.5}]
    elif form == "text":
        body = chat(300_000)
    else:
        path, body = "/adapters", {"name": "long", **inline}
    assert len(json.dumps(body)) > MAX_ON_LOOP_BYTES
    async with client_of(app) as client:
        content = json.dumps(body).encode()
        with calls_on_this_thread() as calls:
            response = await client.post(path, content=content, headers=JSON)
    assert response.status_code in (200, 201), response.text
    assert calls.keys() <= {"server.registry.spec.number"}
    assert calls["server.registry.spec.number"] <= 1  # a weight


async def test_a_short_body_does_not_wait_for_a_thread(client: httpx.AsyncClient) -> None:
    """So the test before this one sees what it looks for."""
    body = {**chat(10_000), "adapter": {"vector": [0.5] * 600, "recipe": {"rank": 1, "u": 300, "groups": 2}}}
    with calls_on_this_thread() as calls:
        assert (await client.post(CHAT, json=body)).status_code == 200
    assert LONG_WORK - {"server.registry.spec.number"} <= calls.keys()
    with calls_on_this_thread() as calls:
        await client.post(CHAT, json={**chat(10), "adapter": {"vector": [0.5] * 13}})
    assert calls["server.registry.spec.number"] == 13
