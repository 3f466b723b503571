"""/v1/models lists the base model and the adapters that may be given as `model`."""

from datetime import UTC, datetime

import anthropic
import httpx
import openai
import pytest
import torch

from adapters.factors.factors import Factors
from adapters.vector.adapter import Adapter
from adapters.vector.recipe import Recipe
from tests.server.conftest import Store
from tests.server.support.fake_engine import BASE
from tests.server.support.keyed import Operator, bearer


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


def test_what_adapters_must_be_made_for_can_be_asked(
    openai_client: openai.OpenAI, store: Store, factors: Factors
) -> None:
    """By a client that has nothing of the model: whose factors, of which rank, in how many groups at most."""
    told = openai_client.models.retrieve(BASE).to_dict()["factors"]
    assert isinstance(told, dict)
    assert told == {"digest": factors.digest, "kind": "svd", "rank": factors.rank, "modules": len(factors.modules)}
    store("acme/math", Adapter.from_vector(torch.ones(13, 1), Recipe(), told["digest"], "bfloat16"))
    assert openai_client.models.retrieve("acme/math").to_dict()["factors"] is None
    adapter: dict[str, object] = {"factors": told["digest"], "dtype": "float32"}
    for rank, groups, message in (
        (told["rank"], told["modules"], None),
        (told["rank"] + 1, told["modules"], "rank"),
        (told["rank"], told["modules"] + 1, "groups"),
    ):
        adapter |= {"recipe": {"rank": rank, "groups": groups}, "vector": [0.1] * groups}
        ask = {"model": BASE, "messages": [{"role": "user", "content": "hi"}], "extra_body": {"adapter": adapter}}
        if message is None:
            openai_client.chat.completions.create(**ask)  # type: ignore[call-overload]
        else:
            with pytest.raises(openai.BadRequestError, match=message):
                openai_client.chat.completions.create(**ask)  # type: ignore[call-overload]


@pytest.mark.parametrize("model", ["acme/none", "acme/math@2", "a b"])
async def test_unknown_model_is_not_found(client: httpx.AsyncClient, stored: None, model: str) -> None:
    response = await client.get(f"/v1/models/{model}")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_pages_follow_each_other_to_the_end(client: httpx.AsyncClient, store: Store, factors: Factors) -> None:
    names = ["a", "b", "c/d"]
    for name in names:
        store(name, Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16"))
    everything = [BASE, "base-alias", *names]
    for limit in range(1, 7):
        found: list[str] = []
        query = {"limit": str(limit)}
        for _ in everything:
            page = (await client.get("/v1/models", params=query)).json()
            ids = [model["id"] for model in page["data"]]
            assert len(ids) <= limit
            assert [page["first_id"], page["last_id"]] == [ids[0], ids[-1]]
            found += ids
            if not page["has_more"]:
                break
            query["after"] = page["last_id"]
        assert found == everything
    assert (await client.get("/v1/models?after=zzz")).json()["data"] == []
    for wrong in ("limit=0", "limit=1001", "limit=x", "after=a%20b", "before=a"):
        assert (await client.get(f"/v1/models?{wrong}")).status_code == 400, wrong


def test_anthropics_client_reads_models_page_by_page(
    base_url: str, openai_client: openai.OpenAI, store: Store, factors: Factors
) -> None:
    names = ["acme/math", "acme/physics", "chem"]
    for name in names:
        store(name, Adapter.from_vector(torch.ones(13, 1), Recipe(), factors.digest, "bfloat16"))
    client = anthropic.Anthropic(base_url=base_url, api_key="unused", max_retries=0)
    for models in (client.models, client.beta.models):
        for limit in (1, 2, 5, 20):
            assert [model.id for model in models.list(limit=limit)] == [BASE, "base-alias", *names]
        found = models.retrieve("acme/math")
        assert (found.type, found.display_name, found.lifecycle) == ("model", "acme/math", "active")
        assert isinstance(found.created_at, datetime) and found.created_at.tzinfo is not None
        created = openai_client.models.retrieve("acme/math").created
        assert found.created_at == datetime.fromtimestamp(created, UTC)
    with pytest.raises(anthropic.NotFoundError, match="'acme/none'"):
        client.models.retrieve("acme/none")
    everything = [BASE, "base-alias", *names]
    for limit in (1, 2, 4, 20):
        for place, name in enumerate(everything):
            earlier = everything[:place]
            page = client.models.list(before_id=name, limit=limit)
            assert [model.id for model in page.data] == earlier[-limit:]
            assert page.has_more == (len(earlier) > limit)
            found: list[str] = []
            pages = [page]
            while pages[-1].has_next_page():
                pages.append(pages[-1].get_next_page())
            for page in reversed(pages):
                found += [model.id for model in page.data]
            assert found == earlier
    for wrong, also in (("a b", {}), ("chem", {"after_id": BASE})):
        with pytest.raises(anthropic.BadRequestError, match="before_id"):
            client.models.list(before_id=wrong, **also)  # type: ignore[arg-type]


def test_openais_client_deletes_an_adapter_and_not_the_base_model(openai_client: openai.OpenAI, base_url: str) -> None:
    for name in ("acme/math", "acme/math", "chem"):
        httpx.post(f"{base_url}/adapters", json={"name": name, "vector": [1.0] * 13}).raise_for_status()
    one = openai_client.models.delete("acme/math@1")
    assert (one.id, one.deleted, one.object) == ("acme/math@1", True, "model")
    assert openai_client.models.retrieve("acme/math").id == "acme/math"
    assert openai_client.models.delete("acme/math").deleted
    assert [model.id for model in openai_client.models.list()] == [BASE, "base-alias", "chem"]
    for gone in ("acme/math", "never", "a b"):
        with pytest.raises(openai.NotFoundError):
            openai_client.models.delete(gone)
    with pytest.raises(openai.BadRequestError, match="base model"):
        openai_client.models.delete(BASE)
    assert httpx.post(f"{base_url}/adapters/acme/math/restore").status_code == 200


async def test_deleting_takes_the_scope_of_adapters(operator: Operator) -> None:
    await operator.make_tenant("acme")
    reader, writer = [(await operator.make_key("acme", scope))["key"] for scope in ("infer", "adapters")]
    uploaded = {"name": "a", "vector": [1.0] * 13}
    assert (await operator.http.post("/v1/adapters", json=uploaded, headers=bearer(writer))).status_code == 201
    assert (await operator.http.delete("/v1/models/a", headers=bearer(reader))).status_code == 403
    assert (await operator.http.delete("/v1/models/a", headers=bearer(writer))).status_code == 200
