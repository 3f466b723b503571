"""Many adapters in one request, and all of them back."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.registry.bulk_export import BATCH
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine

VECTOR = base64.b64encode(bytes(26)).decode()


def ndjson(items: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


async def send(client: httpx.AsyncClient, body: bytes, kind: str = "application/x-ndjson", **headers: str) -> list[Any]:
    response = await client.post("/adapters/bulk", content=body, headers={"content-type": kind, **headers})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def number_vector(number: int) -> str:
    return base64.b64encode(np.full(13, number, np.float32).tobytes()).decode()


async def test_every_line_gets_an_outcome_in_order_and_a_wrong_one_stops_no_other(client: httpx.AsyncClient) -> None:
    body = ndjson([{"name": "a", "vector": VECTOR}, {"name": "b", "vector": "AAA="}, {"name": BASE, "vector": VECTOR}])
    body += b"{broken\n\n[]\n" + ndjson([{"name": "a", "vector": [0.5] * 13}, {"vector": VECTOR}])
    *outcomes, totals = await send(client, body)
    assert [outcome["index"] for outcome in outcomes] == list(range(7))
    assert [outcome.get("version") for outcome in outcomes] == [1, None, None, None, None, 2, None]
    assert [outcome.get("error", {}).get("code") for outcome in outcomes] == [
        None,
        "invalid_vector",
        "invalid_name",
        "invalid_json",
        "invalid_json",
        None,
        "missing_required_parameter",
    ]
    assert totals == {"object": "adapter.bulk", "stored": 2, "rejected": 5, "complete": True}
    assert (await client.get("/adapters/a@2/vector")).content == b"\x00\x3f" * 13
    # Of what stored nothing the audit log has no line.
    await send(client, b"{broken\n")
    audit = (await client.get("/v1/audit?action=adapter.bulk_create")).json()["data"]
    assert [entry["detail"] for entry in audit] == [{"stored": 2, "rejected": 5}]


async def test_ndjson_export_is_an_import_of_the_same_adapters(client: httpx.AsyncClient) -> None:
    recipe = {"groups": 1, "u": 2, "seed": 9, "rank": 1}
    items = [
        {"name": "x/1", "vector": number_vector(1), "dtype": "float32", "metadata": {"team": "blue"}},
        {"name": "x/1", "vector": number_vector(2), "dtype": "float32"},
        {"name": "x/2", "vector": [1.5, -2], "recipe": recipe},
        {"name": "y", "vector": VECTOR},
    ]
    await send(client, ndjson(items))
    exported = (await client.get("/adapters/export", params={"versions": "all"})).content
    lines = [json.loads(line) for line in exported.splitlines()]
    assert [(line["name"], line["version"]) for line in lines] == [("x/1", 1), ("x/1", 2), ("x/2", 1), ("y", 1)]
    *outcomes, _ = await send(client, exported)
    assert [(outcome["name"], outcome["version"]) for outcome in outcomes] == [
        ("x/1", 3),
        ("x/1", 4),
        ("x/2", 2),
        ("y", 2),
    ]
    again = [json.loads(line) for line in (await client.get("/adapters/export")).content.splitlines()]
    for line, first in zip(again, [lines[1], lines[2], lines[3]], strict=True):
        assert {**line, "version": 0, "created_at": 0} == {**first, "version": 0, "created_at": 0}


async def test_safetensors_library_writes_what_bulk_reads_and_reads_what_export_writes(
    client: httpx.AsyncClient,
) -> None:
    tensors = {"a": torch.arange(13.0).reshape(13, 1), "b/c": torch.full((13, 1), 0.25, dtype=torch.bfloat16)}
    metadata = {"tinylora:a": json.dumps({"metadata": {"team": "red"}})}
    body = safetensors.torch.save(tensors | {"wrong": torch.zeros(5)}, metadata)
    *outcomes, totals = await send(client, body, "application/x-safetensors")
    assert (totals["stored"], totals["rejected"]) == (2, 1)
    assert [outcome["error"]["param"] for outcome in outcomes if "error" in outcome] == ["vector"]
    exported = (await client.get("/adapters/export", params={"format": "safetensors"})).content
    back = safetensors.torch.load(exported)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)
    *_, totals = await send(client, exported, "application/x-safetensors")
    assert totals["stored"] == 2
    assert (await client.get("/adapters/a@2")).json()["metadata"] == {"team": "red"}


async def test_safetensors_export_goes_on_in_a_next_file(client: httpx.AsyncClient) -> None:
    await send(client, ndjson({"name": f"n{number}", "vector": VECTOR} for number in range(5)))
    names: list[str] = []
    url: str | None = "/adapters/export?format=safetensors&limit=2"
    while url is not None:
        response = await client.get(url)
        names += safetensors.torch.load(response.content)
        following = response.links.get("next", {}).get("url")
        url = None if following is None else str(response.url.join(following))
    assert sorted(names) == [f"n{number}" for number in range(5)]


async def test_the_next_file_is_beside_this_one_whatever_path_a_proxy_has_for_it(client: httpx.AsyncClient) -> None:
    await send(client, ndjson({"name": name, "vector": VECTOR} for name in "ab"))
    response = await client.get("/v1/adapters/export?format=safetensors&limit=1")
    assert response.links["next"]["url"] == "export?format=safetensors&limit=1&after=a"


async def test_all_versions_are_refused_in_the_format_that_has_one_of_a_name(client: httpx.AsyncClient) -> None:
    response = await client.get("/adapters/export", params={"format": "safetensors", "versions": "all"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "versions")


async def test_an_export_leaves_in_pieces_of_many_lines(app: FastAPI, client: httpx.AsyncClient) -> None:
    await send(client, ndjson({"name": f"n{number}", "vector": VECTOR} for number in range(BATCH)))
    sizes: list[int] = []

    async def counting(scope: Scope, receive: Receive, send_on: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.body":
                sizes.append(len(message.get("body", b"")))
            await send_on(message)

        await app(scope, receive, counted)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(counting), base_url=client.base_url) as counted_client:
        response = await counted_client.get("/adapters/export")
    assert len(response.text.splitlines()) == BATCH
    assert len(sizes) < BATCH / 50


async def test_import_that_is_sent_again_under_its_key_stores_nothing_twice(client: httpx.AsyncClient) -> None:
    body = ndjson({"name": f"n{number}", "vector": VECTOR} for number in range(BATCH + 5))
    first = await send(client, body, **{"idempotency-key": "import-1"})
    assert await send(client, body, **{"idempotency-key": "import-1"}) == first
    assert {outcome["version"] for outcome in first[:-1]} == {1}
    third = await send(client, body, **{"idempotency-key": "import-2"})
    assert {outcome["version"] for outcome in third[:-1]} == {2}


async def test_body_that_breaks_off_has_stored_what_came_before(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(settings.model_copy(update={"max_bulk_bytes": 2**20}), engine, app_database)
    kind = {"content-type": "application/x-ndjson"}

    async def too_much() -> AsyncIterator[bytes]:
        yield ndjson({"name": f"n{number}", "vector": VECTOR} for number in range(BATCH))
        yield b"x" * 2**20

    async with client_of(app) as client:
        response = await client.post("/adapters/bulk", content=too_much(), headers=kind)
        *outcomes, totals = [json.loads(line) for line in response.text.splitlines()]
        assert len(outcomes) == totals["stored"] == BATCH
        assert totals["complete"] is False
        assert totals["error"]["code"] == "request_too_large"
        response = await client.post("/adapters/bulk", content=b"x" * (2**20 + 1), headers=kind)
    assert response.status_code == 413


async def test_other_content_types_and_broken_files_are_refused_as_a_whole(client: httpx.AsyncClient) -> None:
    response = await client.post("/adapters/bulk", json={"name": "a", "vector": VECTOR})
    assert (response.status_code, response.json()["error"]["param"]) == (415, "content-type")
    response = await client.post(
        "/adapters/bulk", content=b"nonsense", headers={"content-type": "application/safetensors"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_checkpoint")


@pytest.mark.parametrize("shape", [[0, 2**62, 2**62], [0, 2**63]])
async def test_an_empty_tensor_of_a_shape_that_none_has_is_refused(client: httpx.AsyncClient, shape: list[int]) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    file = len(header).to_bytes(8, "little") + header
    for path in ("/adapters/bulk", "/adapters?name=a"):
        response = await client.post(path, content=file, headers={"content-type": "application/safetensors"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_checkpoint")


async def test_empty_registry_exports_an_empty_body_of_either_format(client: httpx.AsyncClient) -> None:
    assert (await client.get("/adapters/export")).content == b""
    exported = (await client.get("/adapters/export", params={"format": "safetensors"})).content
    assert safetensors.torch.load(exported) == {}
