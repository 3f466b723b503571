"""/adapters over HTTP: every form of upload, look-ups, downloads, deletion, and what is refused."""

import base64
import gzip
import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from fastapi import FastAPI

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine, tiny_factors

VECTOR = struct.pack("<13H", *range(0x3D00, 0x3D0D))  # 13 bfloat16 numbers near 0.03
NUMBERS = torch.frombuffer(bytearray(VECTOR), dtype=torch.bfloat16).float().tolist()
OCTETS = {"content-type": "application/octet-stream"}


async def upload(client: httpx.AsyncClient, name: str = "acme/math", content: bytes = VECTOR, **query: Any) -> Any:
    response = await client.post("/adapters", params={"name": name, **query}, content=content, headers=OCTETS)
    assert response.status_code == 201, response.text
    return response.json()


def assert_error(response: httpx.Response, status: int, param: str | None, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    assert error["type"] == "invalid_request_error"
    assert response.headers["x-request-id"]
    return str(error["message"])


async def test_26_bytes_and_a_name_are_an_adapter(client: httpx.AsyncClient, factors: Factors) -> None:
    assert await upload(client) == {
        "id": "acme/math@1",
        "object": "adapter",
        "name": "acme/math",
        "version": 1,
        "created_at": pytest.approx(1_800_000_000, rel=0.2),
        "deleted_at": None,
        "public": False,
        "recipe": {
            "rank": 2, "u": 1, "groups": 13, "tying": "tiled", "seed": 0, "projection": "sha256", "convention": "paper",
        },
        "factors": factors.digest,
        "dtype": "bfloat16",
        "bytes": 26,
        "sha256": hashlib.sha256(VECTOR).hexdigest(),
        "metadata": {},
    }  # fmt: skip
    assert (await upload(client))["id"] == "acme/math@2"
    response = await client.get("/adapters/acme/math@1/vector")
    assert response.content == VECTOR


async def test_recipe_and_dtype_of_raw_bytes_come_from_the_query(client: httpx.AsyncClient) -> None:
    data = np.linspace(-1, 1, 12, dtype="<f4").tobytes()
    stored = await upload(client, "a", data, dtype="fp32", groups=4, u=3, seed=2**63 - 1, tying="tiled", rank=1)
    assert stored["recipe"] | {"groups": 4, "u": 3, "seed": 2**63 - 1, "rank": 1} == stored["recipe"]
    assert (stored["dtype"], stored["bytes"]) == ("float32", 48)
    assert (await client.get("/adapters/a/vector")).content == data


@pytest.mark.parametrize(
    "vector",
    [base64.b64encode(VECTOR).decode(), NUMBERS, [[number] for number in NUMBERS]],
    ids=["base64", "flat", "nested"],
)
async def test_json_carries_the_vector_as_base64_or_numbers(client: httpx.AsyncClient, vector: object) -> None:
    body = {"name": "acme/math", "vector": vector, "recipe": {"seed": 5}, "metadata": {"job": "ftjob-1"}}
    response = await client.post("/v1/adapters", json=body)
    assert response.status_code == 201, response.text
    assert response.json()["metadata"] == {"job": "ftjob-1"}
    assert response.json()["recipe"]["seed"] == 5
    assert response.json()["sha256"] == hashlib.sha256(VECTOR).hexdigest()


async def test_safetensors_file_keeps_recipe_dtype_and_bits(client: httpx.AsyncClient, factors: Factors) -> None:
    adapter = Adapter.from_vector(torch.randn(7, 2), Recipe(u=2, groups=7, seed=3), factors.digest, "float16")
    for content_type in ("application/x-safetensors", "application/safetensors"):
        response = await client.post(
            "/adapters",
            params={"name": "own"},
            content=adapter.to_safetensors(),
            headers={"content-type": content_type},
        )
        assert response.status_code == 201, response.text
    for request in ({"params": {"format": "safetensors"}}, {"headers": {"accept": "application/x-safetensors"}}):
        response = await client.get("/adapters/own/vector", **request)
        assert response.headers["content-type"] == "application/x-safetensors"
        assert Adapter.from_safetensors(response.content) == adapter


async def test_form_takes_a_file_its_configuration_and_metadata(client: httpx.AsyncClient, factors: Factors) -> None:
    # LoRA-XS as its authors save it: A and B are the factors, R is what was trained.
    tensors, expected = {}, []
    for module in factors.modules:
        left, values, right = factors.triplet(module)
        tensors[f"base_model.model.{module}.lora_A.weight"] = (values[:, None] * right.T).contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = left.contiguous()
        r = torch.randn(2, 2)
        tensors[f"base_model.model.{module}.default_lora_latent_mapping.weight"] = r
        expected.append(r)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    files = {
        "file": ("adapter_model.safetensors", safetensors.torch.save(tensors)),
        "config": ("adapter_config.json", json.dumps(config)),
    }
    response = await client.post("/adapters", data={"name": "xs", "metadata": '{"from": "peft"}'}, files=files)
    assert response.status_code == 201, response.text
    assert response.json()["recipe"]["projection"] == "elementary"
    assert response.json()["metadata"] == {"from": "peft"}
    # The same by query, without a configuration field of its own name.
    again = await client.post(
        "/adapters", params={"name": "xs"}, files=[("file", files["file"]), ("file", files["config"])]
    )
    assert again.json()["sha256"] == response.json()["sha256"]


@pytest.mark.parametrize(
    ("query", "content", "param", "code"),
    [
        ({}, VECTOR, "name", "missing_required_parameter"),
        ({"name": "acme/"}, VECTOR, "name", "invalid_name"),
        ({"name": "a@1"}, VECTOR, "name", "invalid_name"),
        ({"name": BASE}, VECTOR, "name", "invalid_name"),
        ({"name": "a"}, VECTOR[:-1], "vector", "invalid_vector"),
        ({"name": "a"}, VECTOR + b"\0", "vector", "invalid_vector"),
        ({"name": "a"}, b"", "vector", "invalid_vector"),
        ({"name": "a"}, b"\x80\x7f" * 13, "vector", "invalid_vector"),
        ({"name": "a"}, b"\xc0\x7f" * 13, "vector", "invalid_vector"),
        ({"name": "a", "dtype": "int8"}, VECTOR, "dtype", "invalid_vector"),
        ({"name": "a", "dtype": "float32"}, VECTOR, "vector", "invalid_vector"),
        ({"name": "a", "groups": "x"}, VECTOR, "groups", "invalid_recipe"),
        ({"name": "a", "groups": "0"}, VECTOR, "groups", "invalid_recipe"),
        ({"name": "a", "groups": "15"}, VECTOR, "groups", "invalid_recipe"),
        ({"name": "a", "seed": "-1"}, VECTOR, "seed", "invalid_recipe"),
        ({"name": "a", "seed": "9" * 400}, VECTOR, "seed", "invalid_recipe"),
        ({"name": "a", "rank": "3"}, VECTOR, "rank", "factors_mismatch"),
        ({"name": "a", "tying": "loose"}, VECTOR, "tying", "invalid_recipe"),
        ({"name": "a", "projection": "elementary"}, VECTOR, "u", "invalid_recipe"),
        ({"name": "a", "ranks": "2"}, VECTOR, "ranks", "unknown_parameter"),
        ({"name": ["a", "b"]}, VECTOR, "name", "invalid_value"),
        ({"name": "a", "factors": "0" * 64}, VECTOR, "factors", "factors_mismatch"),
        ({"name": "a", "factors": "zz"}, VECTOR, "factors", "factors_mismatch"),
    ],
)
async def test_raw_upload_that_cannot_be_served_is_refused_by_field(
    client: httpx.AsyncClient, query: dict[str, Any], content: bytes, param: str, code: str
) -> None:
    response = await client.post("/adapters", params=query, content=content, headers=OCTETS)
    assert_error(response, 400, param, code)
    assert (await client.get("/adapters")).json()["data"] == []


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"name": None}, "name", "missing_required_parameter"),
        ({"name": 5}, "name", "invalid_name"),
        ({"vector": None}, "vector", "missing_required_parameter"),
        ({"vector": 5}, "vector", "invalid_vector"),
        ({"vector": "%%%"}, "vector", "invalid_vector"),
        ({"vector": "AAAA"}, "vector", "invalid_vector"),
        ({"vector": "ü"}, "vector", "invalid_vector"),
        ({"vector": []}, "vector", "invalid_vector"),
        ({"vector": NUMBERS[:-1]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], "1"]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], True]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], None]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], float("nan")]}, "vector[12]", "invalid_value"),
        ({"vector": [*NUMBERS[:-1], float("inf")]}, "vector[12]", "invalid_value"),
        ({"vector": [*NUMBERS[:-1], 10**400]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], 1e300]}, "vector", "invalid_vector"),
        ({"vector": [NUMBERS]}, "vector", "invalid_vector"),
        ({"vector": [[number] for number in NUMBERS[:-1]] + [[]]}, "vector", "invalid_vector"),
        ({"vector": [*NUMBERS[:-1], [1.0]]}, "vector", "invalid_vector"),
        ({"dtype": 16}, "dtype", "invalid_value"),
        ({"dtype": "double"}, "dtype", "invalid_vector"),
        ({"recipe": []}, "recipe", "invalid_recipe"),
        ({"recipe": {"ranks": 2}}, "recipe", "invalid_recipe"),
        ({"recipe": {"rank": "2"}}, "recipe.rank", "invalid_recipe"),
        ({"recipe": {"rank": True}}, "recipe.rank", "invalid_recipe"),
        ({"recipe": {"groups": 14, "tying": "structured"}, "vector": [0.0] * 14}, None, "ok"),
        ({"recipe": {"groups": 6, "tying": "structured"}}, "recipe.groups", "invalid_recipe"),
        ({"recipe": {"rank": 64}}, "recipe.rank", "factors_mismatch"),
        ({"factors": 5}, "factors", "invalid_value"),
        ({"factors": "f" * 64}, "factors", "factors_mismatch"),
        ({"metadata": []}, "metadata", "invalid_metadata"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_metadata"),
        ({"metadata": {"k": "\ud800"}}, "metadata.k", "invalid_value"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata", "invalid_metadata"),
        ({"vektor": NUMBERS}, "vektor", "unknown_parameter"),
        ({"\udfff": NUMBERS}, "\\udfff", "invalid_value"),
    ],
)
async def test_json_upload_that_cannot_be_served_is_refused_by_field(
    client: httpx.AsyncClient, change: dict[str, Any], param: str, code: str
) -> None:
    body = json.dumps({"name": "a", "vector": NUMBERS} | change)
    response = await client.post("/adapters", content=body, headers={"content-type": "application/json"})
    if code == "ok":
        assert response.status_code == 201
    else:
        assert_error(response, 400, param, code)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 40_000])
async def test_body_that_is_no_json_object_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/adapters", content=body, headers={"content-type": "application/json"})
    assert_error(response, 400, None, "invalid_json")


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/xml"])
async def test_other_content_types_are_refused_with_those_there_are(
    client: httpx.AsyncClient, content_type: str
) -> None:
    response = await client.post(
        "/adapters", params={"name": "a"}, content=VECTOR, headers={"content-type": content_type}
    )
    message = assert_error(response, 415, "content-type", "unsupported_media_type")
    assert "application/octet-stream" in message


async def test_files_of_other_kinds_are_named_with_what_to_do(client: httpx.AsyncClient) -> None:
    new, old = io.BytesIO(), io.BytesIO()
    torch.save({"lora_A": torch.zeros(2, 2)}, new)
    torch.save({"lora_A": torch.zeros(2, 2)}, old, _use_new_zipfile_serialization=False)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
    html = b"<!doctype html><html><head><title>adapter_model.safetensors</title></head></html>"
    for content, words in (
        (new.getvalue(), "pickle"),
        (old.getvalue(), "pickle"),
        (pointer, "git lfs pull"),
        (html, "download the file itself"),
        (b'{"peft_type": "LORA"}', "adapter_model.safetensors"),
        (gzip.compress(b"x" * 100), "unpack"),
    ):
        response = await client.post("/adapters", data={"name": "a"}, files={"file": ("adapter_model.bin", content)})
        message = assert_error(response, 400, "file", "invalid_checkpoint")
        assert words in message


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("config", ("adapter_config.json", b"{}")), ("adapter_config", (None, b"{}"))], "adapter_config"),
        ([("config", ("adapter_config.json", b"{}")), ("config", ("adapter_config.json", b"{}"))], "adapter_config"),
        ([("file", ("y.safetensors", b"y"))], "file"),
        ([("name", (None, b"b"))], "name"),
        ([("metadata", (None, b"{}")), ("metadata", (None, b"{}"))], "metadata"),
    ],
)
async def test_part_of_a_form_that_comes_twice_is_named_as_such(
    client: httpx.AsyncClient, parts: list[Any], param: str
) -> None:
    first = [("name", (None, b"a")), ("file", ("x.safetensors", b"x"))]
    message = assert_error(await client.post("/adapters", files=first + parts), 400, param, "invalid_value")
    assert "twice" in message


async def test_what_an_import_could_not_carry_over_is_in_its_metadata(
    client: httpx.AsyncClient, factors: Factors
) -> None:
    tensors, generator = {}, torch.Generator().manual_seed(0)
    for module in factors.modules:
        left, values, right = factors.triplet(module)
        # A hundredth of A lies outside the factors: within what rounding may do.
        stray = torch.randn(right.shape, generator=generator)
        stray -= right @ (right.T @ stray)
        lora_a = values * (right + 0.01 * stray / stray.norm(dim=0))
        tensors[f"base_model.model.{module}.lora_A.weight"] = lora_a.T.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = left.contiguous()
        tensors[f"base_model.model.{module}.default_lora_latent_mapping.weight"] = torch.eye(2)
    files = [
        ("file", ("x.safetensors", safetensors.torch.save(tensors))),
        ("config", ("adapter_config.json", b'{"r": 2, "lora_alpha": 2}')),
    ]
    form = {"name": "xs", "metadata": '{"from": "peft"}'}
    stored = (await client.post("/adapters", data=form, files=files)).json()
    assert stored["metadata"]["from"] == "peft"
    assert float(stored["metadata"]["import_loss"]) == pytest.approx(0.01, rel=0.01)
    assert (await client.get("/adapters/xs")).json()["metadata"] == stored["metadata"]


async def test_file_that_is_no_checkpoint_is_refused(client: httpx.AsyncClient) -> None:
    header = {"content-type": "application/x-safetensors"}
    foreign = safetensors.torch.save({"lora_A": torch.zeros(2, 2)})
    for data in (b"", b"not safetensors", foreign):
        response = await client.post("/adapters", params={"name": "a"}, content=data, headers=header)
        assert_error(response, 400, "file", "invalid_checkpoint")


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"name": "a"}, {"config": ("adapter_config.json", b"{}")}, "file"),
        ({"name": "a"}, {"file": ("x.safetensors", b"x"), "config": ("adapter_config.json", b"[]")}, "adapter_config"),
        ({"name": "a"}, {"file": ("x.safetensors", b"x"), "other": ("y", b"y")}, "other"),
        ({"name": "a", "dtype": "fp16"}, {"file": ("x.safetensors", b"x")}, "dtype"),
        ({"name": "a", "metadata": "{"}, {"file": ("x.safetensors", b"x")}, "metadata"),
        ({}, {"file": ("x.safetensors", b"x")}, "name"),
    ],
)
async def test_form_that_does_not_fit_is_refused_by_field(
    client: httpx.AsyncClient, fields: dict[str, str], files: dict[str, Any], param: str
) -> None:
    response = await client.post("/adapters", data=fields, files=files)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
async def test_form_that_is_not_one_is_refused(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post("/adapters", content=b"garbage", headers={"content-type": content_type})
    assert response.status_code == 400


@pytest.mark.parametrize(
    "content_type", ["application/octet-stream", "application/json", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_over_the_limit_is_refused_whether_or_not_its_length_was_announced(
    client: httpx.AsyncClient, content_type: str, chunked: bool
) -> None:
    async def chunks() -> Any:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(101):
            yield b"0" * 1000

    content = chunks() if chunked else b"0" * 100_001
    response = await client.post("/adapters", content=content, headers={"content-type": content_type})
    message = assert_error(response, 413, None, "request_too_large")
    assert "100000" in message and "max_upload_bytes" in message


@pytest.mark.parametrize("path", ["acme/math", "acme%2Fmath", "acme%2fmath@1", "acme/math@1"])
@pytest.mark.parametrize("prefix", ["/adapters", "/v1/adapters"])
async def test_name_with_a_slash_works_escaped_or_not(client: httpx.AsyncClient, prefix: str, path: str) -> None:
    stored = await upload(client)
    assert (await client.get(f"{prefix}/{path}")).json() == stored
    assert (await client.get(f"{prefix}/{path}/vector")).content == VECTOR
    response = await client.delete(f"{prefix}/{path}")
    expected = path.replace("%2F", "/").replace("%2f", "/")
    assert response.json() == {
        "id": expected, "object": "adapter.deleted", "deleted": True, "versions": [1], "purged": False,
    }  # fmt: skip
    assert_error(await client.get(f"{prefix}/{path}"), 404, "name", "adapter_not_found")
    assert_error(await client.get(f"{prefix}/{path}/vector"), 404, "name", "adapter_not_found")
    assert_error(await client.delete(f"{prefix}/{path}"), 404, "name", "adapter_not_found")


async def test_pages_follow_each_other_by_last_id(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await upload(client, f"n{number}")
    seen, after = [], None
    while True:
        page = (await client.get("/adapters", params={"limit": 3} | ({"after": after} if after else {}))).json()
        seen += [item["name"] for item in page["data"]]
        assert (page["object"], page["first_id"]) == ("list", page["data"][0]["id"])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen == [f"n{number}" for number in range(7)]
    empty = (await client.get("/adapters", params={"after": "n6"})).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    "query",
    [
        {"metadata[team]": "x", "metadata[stage]": "prod"},
        {"metadata.team": "x", "metadata.stage": "prod"},
        {"metadata[team]": "x", "prefix": "acme/", "metadata.stage": "prod"},
    ],
)
async def test_adapters_are_found_by_prefix_and_metadata(client: httpx.AsyncClient, query: dict[str, str]) -> None:
    for number in range(6):
        stage = "prod" if number % 2 else "test"
        body = {"name": f"acme/n{number}", "vector": NUMBERS, "metadata": {"team": "x", "stage": stage, "a.b": "ü&="}}
        assert (await client.post("/adapters", json=body)).status_code == 201
    await upload(client, "acme/other")
    first = (await client.get("/adapters", params=query | {"limit": "2"})).json()
    rest = (await client.get("/adapters", params=query | {"after": first["last_id"]})).json()
    assert [item["id"] for item in first["data"] + rest["data"]] == ["acme/n1@1", "acme/n3@1", "acme/n5@1"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    for exotic in ({"metadata[a.b]": "ü&="}, {"metadata.a.b": "ü&="}):
        assert len((await client.get("/adapters", params=exotic)).json()["data"]) == 6
    assert (await client.get("/adapters", params={"prefix": "acme/n", "metadata[team]": "y"})).json()["data"] == []


async def test_new_version_takes_its_own_metadata_into_the_search(client: httpx.AsyncClient) -> None:
    for metadata in ({"team": "x", "old": "1"}, {"team": "y"}):
        await client.post("/adapters", json={"name": "a", "vector": NUMBERS, "metadata": metadata})
    found = {
        query: [item["id"] for item in (await client.get(f"/adapters?{query}")).json()["data"]]
        for query in ("metadata.team=x", "metadata.old=1", "metadata.team=y")
    }
    assert found == {"metadata.team=x": [], "metadata.old=1": [], "metadata.team=y": ["a@2"]}


async def test_versions_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await upload(client)
    page = (await client.get("/adapters/acme%2Fmath/versions", params={"limit": 2})).json()
    assert [item["id"] for item in page["data"]] == ["acme/math@3", "acme/math@2"]
    assert page["has_more"]
    page = (await client.get("/adapters/acme/math/versions", params={"after": page["last_id"]})).json()
    assert [item["id"] for item in page["data"]] == ["acme/math@1"]
    assert_error(await client.get("/adapters/none/versions"), 404, "name", "adapter_not_found")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/adapters?limit=0", "limit"),
        ("/adapters?limit=101", "limit"),
        ("/adapters?limit=many", "limit"),
        ("/adapters?after=%20", "after"),
        ("/adapters?page=2", "page"),
        ("/adapters/acme/math?version=1", "version"),
        ("/adapters/acme/math/vector?format=pickle", "format"),
        ("/adapters/acme/math/versions?after=acme/math", "after"),
        ("/adapters/acme/math/versions?after=other@1", "after"),
        ("/adapters/acme/math@1/versions", "name"),
        ("/adapters/acme/math@1x", "name"),
        ("/adapters/acme/math@prod/aliases", "name"),
        ("/adapters?prefix=%20", "prefix"),
        ("/adapters?metadata=x", "metadata"),
        ("/adapters?metadata[k]=a&metadata.k=a", "metadata.k"),
        ("/adapters?metadata[k]=a&metadata[k]=b", "metadata[k]"),
        ("/adapters?" + "&".join(f"metadata.{n}=x" for n in range(17)), "metadata"),
        ("/adapters?public=maybe", "public"),
        ("/adapters/acme/math?purge=maybe", "purge"),
        ("/adapters/acme/math/aliases?limit=2", "limit"),
        ("/adapters/acme/math/aliases/prod/history?after=x", "after"),
        ("/adapters/acme/math/versions?deleted=maybe", "deleted"),
        ("/adapters/~a%20b/math", "name"),
        ("/adapters?metadata[k]=%00", "metadata[k]"),
        ("/adapters?public=true&after=a", "after"),
        ("/adapters/acme//math", "name"),
    ],
)
async def test_bad_query_or_name_is_refused_by_field(client: httpx.AsyncClient, path: str, param: str) -> None:
    await upload(client)
    response = await client.get(path)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_unchanged_vector_is_not_sent_again(client: httpx.AsyncClient, factors: Factors) -> None:
    await upload(client, seed=9)
    response = await client.get("/adapters/acme/math/vector")
    headers = response.headers
    assert (headers["x-tinylora-adapter"], headers["x-tinylora-dtype"]) == ("acme/math@1", "bfloat16")
    assert (json.loads(headers["x-tinylora-recipe"])["seed"], headers["x-tinylora-factors"]) == (9, factors.digest)
    unchanged = await client.get("/adapters/acme/math/vector", headers={"if-none-match": headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    other_format = await client.get(
        "/adapters/acme/math/vector?format=safetensors", headers={"if-none-match": headers["etag"]}
    )
    assert other_format.status_code == 200
    await upload(client, seed=10)
    changed = await client.get("/adapters/acme/math/vector", headers={"if-none-match": headers["etag"]})
    assert changed.status_code == 200


async def test_adapters_survive_a_restart(
    app: FastAPI, settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    async with client_of(app) as before:
        stored = await upload(before)
    app_database.close()
    reopened = Database(settings.database_url)
    async with client_of(create_app(settings, engine, reopened)) as after:
        assert (await after.get("/adapters/acme/math")).json() == stored
        chat = await after.post("/v1/chat/completions", json={"model": "acme/math", "messages": []})
        assert chat.headers["x-tinylora-adapter"] == "acme/math@1"
    reopened.close()


async def test_adapter_of_another_base_model_is_listed_but_not_served(
    app: FastAPI, settings: Settings, app_database: Database, tmp_path: Path
) -> None:
    async with client_of(app) as before:
        await upload(before)
    other = FakeEngine(tiny_factors(tmp_path, seed=1))
    async with client_of(create_app(settings, other, app_database)) as after:
        assert len((await after.get("/adapters")).json()["data"]) == 1
        for body in ({"model": "acme/math"}, {"adapter": "acme/math"}):
            response = await after.post("/v1/chat/completions", json=body | {"messages": []})
            message = assert_error(response, 400, next(iter(body)), "factors_mismatch")
            assert "acme/math@1" in message
