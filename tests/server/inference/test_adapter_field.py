"""The `adapter` field and adapters named by `model`: which adapter a request runs with, and what is refused."""

import base64
import json
from typing import Any

import httpx
import pytest
import torch

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from tests.server.conftest import Store
from tests.server.support.fake_engine import BASE

ONES = [1.0] * 13
CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def stored(store: Store, factors: Factors) -> None:
    for name, value in (("acme/math", 1.0), ("acme/math", 2.0), ("brief", 4.0)):
        vector = torch.full((13, 1), value)
        store(name, Adapter.from_vector(vector, Recipe(), factors.digest, "bfloat16"))
    other = Adapter.from_vector(torch.ones(13, 1), Recipe(seed=1), factors.digest, "bfloat16")
    store("other-seed", other)


async def run(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(CHAT, json={"messages": [], **body})


def content(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": BASE},
        {"model": "base-alias"},
        {"model": ""},
        {"model": BASE, "adapter": None},
        {"adapter": None},
    ],
)
async def test_without_an_adapter_the_base_model_runs(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await run(client, **body)
    assert content(response) == "base"
    assert response.headers["x-tinylora-adapter"] == "none"


@pytest.mark.parametrize(
    ("body", "name", "value"),
    [
        ({"adapter": "acme/math"}, "acme/math@2", 2.0),
        ({"adapter": "acme/math@1"}, "acme/math@1", 1.0),
        ({"adapter": "acme/math@1", "model": BASE}, "acme/math@1", 1.0),
        ({"adapter": "acme/math@1", "model": "acme/math@1"}, "acme/math@1", 1.0),
        ({"adapter": "acme/math", "model": "acme/math@2"}, "acme/math@2", 2.0),
        ({"adapter": None, "model": "acme/math"}, "acme/math@2", 2.0),
        ({"model": "acme/math@1"}, "acme/math@1", 1.0),
        ({"model": "brief"}, "brief@1", 4.0),
    ],
)
async def test_named_adapter_runs_whether_named_by_adapter_or_by_model(
    client: httpx.AsyncClient, body: dict[str, Any], name: str, value: float
) -> None:
    response = await run(client, **body)
    assert content(response) == f"{name}: {[value] * 13}"
    assert response.headers["x-tinylora-adapter"] == response.json()["model"] == name


@pytest.mark.parametrize(
    "vector",
    [ONES, [[one] for one in ONES], base64.b64encode(b"\x80\x3f" * 13).decode()],
    ids=["flat", "nested", "base64"],
)
async def test_inline_vector_runs_under_a_name_of_its_content(client: httpx.AsyncClient, vector: object) -> None:
    response = await run(client, adapter={"vector": vector}, model=BASE)
    name = response.headers["x-tinylora-adapter"]
    assert content(response) == f"{name}: {ONES}"
    assert name.startswith("inline:") and len(name) == len("inline:") + 12
    same = await run(client, adapter={"vector": ONES, "dtype": "bf16", "recipe": {"rank": 2}})
    assert same.headers["x-tinylora-adapter"] == name
    different = await run(client, adapter={"vector": ONES, "recipe": {"seed": 1}})
    assert different.headers["x-tinylora-adapter"] != name


async def test_mixture_of_names_and_vectors_is_their_weighted_sum(client: httpx.AsyncClient, factors: Factors) -> None:
    parts = [
        {"adapter": "acme/math", "weight": 0.5},
        {"adapter": "brief@1", "weight": -0.25},
        {"adapter": {"vector": [3.0] * 13, "dtype": "float32", "factors": factors.digest}, "weight": 2},
    ]
    response = await run(client, adapter=parts)
    name = response.headers["x-tinylora-adapter"]
    assert content(response) == f"{name}: {[0.5 * 2.0 - 0.25 * 4.0 + 2 * 3.0] * 13}"
    assert name.startswith("mix:")


@pytest.mark.parametrize(
    "adapter", ["acme/math@1", {"vector": ONES, "dtype": "float32"}], ids=["of a name", "of a vector"]
)
@pytest.mark.parametrize("weight", [0, 0.5, 1, -1, 2, -100, 100])
async def test_a_weight_is_a_dial_of_one_adapter(client: httpx.AsyncClient, adapter: Any, weight: float) -> None:
    response = await run(client, adapter={"adapter": adapter, "weight": weight})
    assert content(response) == f"{response.headers['x-tinylora-adapter']}: {[float(weight)] * 13}"
    as_list = await run(client, adapter=[{"adapter": adapter, "weight": weight}])
    assert as_list.headers["x-tinylora-adapter"] == response.headers["x-tinylora-adapter"]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"adapter": "none"}, 404, "adapter", "adapter_not_found"),
        ({"adapter": "acme/math@3"}, 404, "adapter", "adapter_not_found"),
        ({"adapter": BASE}, 404, "adapter", "adapter_not_found"),
        ({"model": "none"}, 404, "model", "model_not_found"),
        ({"model": "acme/math@3"}, 404, "model", "model_not_found"),
        ({"model": "no such model!"}, 404, "model", "model_not_found"),
        ({"model": "none", "adapter": "acme/math"}, 404, "model", "model_not_found"),
        ({"model": "brief", "adapter": "acme/math"}, 400, "adapter", "adapter_conflict"),
        ({"model": "acme/math", "adapter": "acme/math@1"}, 400, "adapter", "adapter_conflict"),
        ({"model": "brief", "adapter": {"vector": ONES}}, 400, "adapter", "adapter_conflict"),
        ({"model": 5, "adapter": "acme/math"}, 400, "model", "invalid_value"),
        ({"adapter": ""}, 400, "adapter", "invalid_name"),
        ({"adapter": "acme/math@"}, 400, "adapter", "invalid_name"),
        ({"adapter": "\ud800"}, 400, "adapter", "invalid_value"),
        ({"adapter": 5}, 400, "adapter", "invalid_adapter"),
        ({"adapter": False}, 400, "adapter", "invalid_adapter"),
        ({"adapter": {}}, 400, "adapter.vector", "missing_required_parameter"),
        ({"adapter": {"vector": ONES[:-1]}}, 400, "adapter.vector", "invalid_vector"),
        ({"adapter": {"vector": [*ONES[:-1], float("nan")]}}, 400, "adapter.vector[12]", "invalid_value"),
        ({"adapter": {"vector": "AAAA"}}, 400, "adapter.vector", "invalid_vector"),
        ({"adapter": {"vector": "A"}}, 400, "adapter.vector", "invalid_vector"),
        ({"adapter": {"vector": ONES, "dtype": "int4"}}, 400, "adapter.dtype", "invalid_vector"),
        ({"adapter": {"vector": ONES, "recipe": {"groups": 14}}}, 400, "adapter.vector", "invalid_vector"),
        ({"adapter": {"vector": ONES, "recipe": {"groups": 99}}}, 400, "adapter.recipe.groups", "invalid_recipe"),
        ({"adapter": {"vector": ONES, "recipe": {"size": 1}}}, 400, "adapter.recipe", "invalid_recipe"),
        ({"adapter": {"vector": ONES, "recipe": {"rank": 4}}}, 400, "adapter.recipe.rank", "factors_mismatch"),
        ({"adapter": {"vector": ONES, "factors": "0" * 64}}, 400, "adapter.factors", "factors_mismatch"),
        ({"adapter": {"vector": ONES, "weight": 1}}, 400, "adapter.weight", "unknown_parameter"),
        ({"adapter": []}, 400, "adapter", "invalid_adapter"),
        ({"adapter": [{"adapter": "brief", "weight": 1}] * 5}, 400, "adapter", "invalid_adapter"),
        ({"adapter": ["brief"]}, 400, "adapter[0]", "invalid_adapter"),
        ({"adapter": [{"adapter": "brief"}]}, 400, "adapter[0]", "invalid_adapter"),
        ({"adapter": [{"adapter": "brief", "weight": "1"}]}, 400, "adapter[0].weight", "invalid_weight"),
        ({"adapter": [{"adapter": "brief", "weight": 10**400}]}, 400, "adapter[0].weight", "invalid_weight"),
        ({"adapter": [{"adapter": "brief", "weight": 101}]}, 400, "adapter[0].weight", "invalid_weight"),
        ({"adapter": {"adapter": "brief", "weight": -100.5}}, 400, "adapter.weight", "invalid_weight"),
        ({"adapter": {"adapter": "brief", "weight": True}}, 400, "adapter.weight", "invalid_weight"),
        ({"adapter": {"adapter": "brief"}}, 400, "adapter", "invalid_adapter"),
        ({"adapter": {"adapter": "brief", "weight": 1, "vector": ONES}}, 400, "adapter", "invalid_adapter"),
        ({"adapter": {"adapter": "none", "weight": 1}}, 404, "adapter.adapter", "adapter_not_found"),
        (
            {"adapter": {"adapter": {"vector": [9e3] * 13, "dtype": "float32"}, "weight": 2}},
            400,
            "adapter.vector",
            "invalid_vector",
        ),
        ({"adapter": [{"adapter": "none", "weight": 1}]}, 404, "adapter[0].adapter", "adapter_not_found"),
        ({"adapter": [{"adapter": [], "weight": 1}]}, 400, "adapter[0].adapter", "invalid_adapter"),
        ({"adapter": [{"adapter": {"vector": [1]}, "weight": 1}]}, 400, "adapter[0].adapter.vector", "invalid_vector"),
        (
            {"adapter": [{"adapter": "brief", "weight": 1}, {"adapter": "other-seed", "weight": 1}]},
            400,
            "adapter",
            "invalid_adapter",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_by_field(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str, code: str
) -> None:
    # json.dumps, because httpx refuses to send NaN and surrogates.
    response = await client.post(
        CHAT, content=json.dumps({"messages": [], **body}), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error


async def test_deleted_adapter_is_not_found_in_the_next_request(client: httpx.AsyncClient) -> None:
    assert content(await run(client, adapter="brief")).startswith("brief@1")
    await client.delete("/adapters/brief")
    for body, code in (
        ({"adapter": "brief"}, "adapter_not_found"),
        ({"adapter": "brief@1"}, "adapter_not_found"),
        ({"model": "brief"}, "model_not_found"),
    ):
        response = await run(client, **body)
        assert (response.status_code, response.json()["error"]["code"]) == (404, code)


async def test_new_version_is_served_in_the_next_request(client: httpx.AsyncClient) -> None:
    assert (await run(client, adapter="brief")).headers["x-tinylora-adapter"] == "brief@1"
    await client.post("/adapters", json={"name": "brief", "vector": ONES})
    assert (await run(client, adapter="brief")).headers["x-tinylora-adapter"] == "brief@2"
    assert (await run(client, adapter="brief@1")).headers["x-tinylora-adapter"] == "brief@1"
