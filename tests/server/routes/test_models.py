"""/v1/models lists the base model and the adapters that may be given as `model`."""

import httpx
import pytest
import torch

from adapters.adapter import Adapter
from adapters.factors import Factors
from adapters.recipe import Recipe
from tests.server.conftest import Store
from tests.server.fake_engine import BASE


@pytest.fixture
def stored(store: Store, factors: Factors) -> None:
    store("acme/math", Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16"))


async def test_base_models_come_first_then_adapters(client: httpx.AsyncClient, stored: None) -> None:
    listing = (await client.get("/v1/models")).json()
    assert [model["id"] for model in listing["data"]] == [BASE, "base-alias", "acme/math"]
    assert [model["parent"] for model in listing["data"]] == [None, None, BASE]
    assert listing["has_more"] is False


@pytest.mark.parametrize(
    ("model", "root"), [("acme%2Fmath", "acme/math@1"), ("acme/math@1", "acme/math@1"), (BASE, BASE)]
)
async def test_model_is_found_by_name(client: httpx.AsyncClient, stored: None, model: str, root: str) -> None:
    assert (await client.get(f"/v1/models/{model}")).json()["root"] == root


@pytest.mark.parametrize("model", ["acme/none", "acme/math@2", "a b"])
async def test_unknown_model_is_not_found(client: httpx.AsyncClient, stored: None, model: str) -> None:
    response = await client.get(f"/v1/models/{model}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
