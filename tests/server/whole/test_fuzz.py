"""Whatever is sent to the parsers of uploads and of the adapter field, the answer is a success or a reasoned 4xx."""

import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from server.api.app import create_app
from server.core.principal import DEFAULT_TENANT_ID
from server.core.settings import Settings
from server.db.database import Database
from server.registry.creation import NewVersion, create_versions
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine

Post = Callable[..., httpx.Response]
FUZZ = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def post(module_database_url: str, factors: Factors) -> Iterator[Post]:
    database = Database(module_database_url)
    made = Settings(database_url="unused", log_level="error", max_request_bytes=100_000, max_upload_bytes=100_000)
    app = create_app(made, FakeEngine(factors), database)
    adapter = Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16")
    with database.write() as connection:
        create_versions(database, connection, DEFAULT_TENANT_ID, [NewVersion("a", adapter)])
    with asyncio.Runner() as runner:

        def post(path: str, **request: Any) -> httpx.Response:
            async def send() -> httpx.Response:
                async with client_of(app) as client:
                    return await client.post(path, **request)

            return runner.run(send())

        yield post
    database.close()


def assert_answered(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"] and error["code"] and error["type"] == "invalid_request_error"


def send_json(post: Post, path: str, body: object) -> None:
    # json.dumps, because httpx refuses to send NaN and surrogates, which other clients do not.
    assert_answered(post(path, content=json.dumps(body), headers={"content-type": "application/json"}))


any_text = st.text(st.characters(), max_size=20)
any_number = st.integers() | st.floats() | st.just(10**400) | st.sampled_from([1e38, 1e39, -0.0, 2**63])
scalars = st.none() | st.booleans() | any_number | any_text
any_json = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4)
)

recipes = st.fixed_dictionaries(
    {},
    optional={
        "rank": st.integers(-1, 5) | any_json,
        "u": st.integers(-1, 20) | any_json,
        "groups": st.integers(-1, 20) | any_json,
        "tying": st.sampled_from(["tiled", "structured"]) | any_json,
        "seed": st.integers() | any_json,
        "projection": st.sampled_from(["sha256", "peft", "elementary"]) | any_json,
        "convention": st.sampled_from(["paper", "sqrt"]) | any_json,
        "other": any_json,
    },
)
vectors = (
    st.just([0.5] * 13)
    | st.lists(any_number, max_size=15)
    | st.lists(st.lists(any_number, max_size=3), max_size=15)
    | st.binary(max_size=60).map(lambda data: base64.b64encode(data).decode())
    | any_json
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "vector": vectors,
        "recipe": recipes | any_json,
        "dtype": st.sampled_from(["bfloat16", "fp16", "float32"]) | any_json,
        "factors": any_text | any_json,
    },
)
names = st.sampled_from(["a", "a@1", "a@2", "b", BASE, "", "a@", "inline:0"]) | any_text
singles = names | specs | any_json
mixtures = st.lists(st.fixed_dictionaries({"adapter": singles, "weight": any_number | any_json}) | any_json, max_size=4)


@FUZZ
@given(adapter=singles | mixtures, model=st.sampled_from([BASE, "a", None]) | any_json)
@example(adapter=[{"adapter": "a", "weight": 1e38}] * 4, model=None)
def test_adapter_field_is_served_or_refused(post: Post, adapter: object, model: object) -> None:
    send_json(post, "/v1/chat/completions", {"messages": [], "adapter": adapter, "model": model})


# Those of a request that the gateway itself reads: to estimate, count, check, plan, trace or rewrite it.
READ_FIELDS = (
    "model", "messages", "input", "prompt", "prompt_embeds", "token_ids", "instructions", "system", "query", "queries",
    "documents", "items", "text_1", "data_1", "inputs", "questions", "n", "sampling_params", "max_tokens",
    "max_completion_tokens", "max_output_tokens", "thinking", "echo", "stop", "stream", "tools", "tool_choice",
    "response_format", "text", "output_config", "structured_outputs", "priority", "service_tier", "cache_salt",
    "request_id", "user", "safety_identifier", "prompt_cache_key", "metadata", "store", "background", "conversation",
    "previous_response_id", "temperature", "top_p", "top_k", "seed", "frequency_penalty", "parameters", "vllm_xargs",
)  # fmt: skip
MODEL_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/invocations",
)
item_references = st.fixed_dictionaries(
    {"type": st.just("item_reference")}, optional={"id": st.just("msg_1") | any_json}
)
nested = st.dictionaries(
    st.sampled_from(["type", "format", "n", "role", "content", "json", "id", "budget_tokens"]), any_json
)
field_values = (
    st.sampled_from(["5", "x", [1], {"a": 1}, 5, True]) | any_json | nested | st.lists(nested | item_references)
)


@FUZZ
@given(
    path=st.sampled_from(MODEL_PATHS),
    fields=st.dictionaries(st.sampled_from(READ_FIELDS), field_values, max_size=3),
    adapter=st.sampled_from([None, "a"]),
)
@example("/v1/responses", {"max_output_tokens": "x"}, None)
@example("/v1/responses", {"max_output_tokens": {"a": 1}, "background": True}, None)
@example("/v1/responses", {"input": [{"type": "item_reference", "id": one} for one in ([1], "msg_1")]}, None)
def test_fields_of_any_type_are_served_or_refused(
    post: Post, path: str, fields: dict[str, object], adapter: str | None
) -> None:
    plain = {"model": BASE, "messages": [], "input": "x", "prompt": "x", "adapter": adapter}
    body = json.dumps({**plain, **fields})
    response = post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text
    assert response.status_code == 200 or response.json()["error"]["message"]


@FUZZ
@given(
    st.fixed_dictionaries({"name": names, "vector": vectors}, optional={"metadata": any_json})
    .flatmap(lambda upload: specs.map(lambda spec: spec | upload))
    .flatmap(lambda upload: st.just(upload) | any_json)
)
def test_json_upload_is_stored_or_refused(post: Post, body: object) -> None:
    send_json(post, "/adapters", body)


@FUZZ
@given(
    content=st.binary(max_size=120) | st.just(b"\x00\x3f" * 13),
    name=names,
    query=st.dictionaries(
        st.sampled_from(["rank", "u", "groups", "seed", "tying", "projection", "convention", "dtype", "factors"])
        | any_text,
        st.integers().map(str) | st.sampled_from(["sha256", "structured", "fp32"]) | any_text,
        max_size=3,
    ),
    content_type=st.sampled_from(
        [
            "application/octet-stream",
            "application/json",
            "application/safetensors",
            "multipart/form-data; boundary=b",
            "multipart/form-data; boundary=\xff; charset=x",
            "text/plain; charset=\xff",
        ]
    ),
)
def test_any_body_of_any_content_type_is_stored_or_refused(
    post: Post, content: bytes, name: str, query: dict[str, str], content_type: str
) -> None:
    parameters = {
        key.encode("utf-8", "replace").decode(): value.encode("utf-8", "replace") for key, value in query.items()
    }
    headers = [(b"content-type", content_type.encode("latin-1"))]
    parameters["name"] = name.encode("utf-8", "replace")
    assert_answered(post("/adapters", params=parameters, content=content, headers=headers))


@FUZZ
@given(st.data())
def test_damaged_safetensors_file_is_stored_or_refused(post: Post, factors: Factors, data: st.DataObject) -> None:
    file = bytearray(Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16").to_safetensors())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(file) - 1))
        file[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    content = bytes(file[: data.draw(st.integers(0, len(file)) | st.just(len(file)))])
    assert_answered(post("/adapters?name=x", content=content, headers={"content-type": "application/x-safetensors"}))


PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'


@FUZZ
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"file", b"name", b"metadata", b"config", b"x", b"\xff", b""]),
            st.sampled_from(
                [b"", b'; filename="f.safetensors"', b'; filename="adapter_config.json"', b"; filename*=x''%"]
            ),
            st.binary(max_size=40) | st.sampled_from([b"{}", b'{"r": 2}', b"a", b"[]"]),
        ),
        max_size=5,
    ),
    st.binary(max_size=10),
)
def test_any_form_is_stored_or_refused(post: Post, parts: list[tuple[bytes, bytes, bytes]], tail: bytes) -> None:
    content = b"".join(PART % part for part in parts) + b"--b--" + tail
    assert_answered(post("/adapters", content=content, headers={"content-type": "multipart/form-data; boundary=b"}))


@FUZZ
@given(body=st.binary(max_size=200))
def test_any_bytes_sent_as_json_are_answered(post: Post, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/adapters"):
        assert_answered(post(path, content=body, headers={"content-type": "application/json"}))
