"""What clients may say about urgency and may not say about shared prefixes."""

import json

import httpx
import openai
import pytest

from server.core.paths import MODEL_ROUTES
from server.inference.gateway_fields import set_gateway_fields


@pytest.mark.parametrize("sent", [{}, {"cache_salt": "tenant-2"}, {"cache_salt": None}])
async def test_a_tenants_salt_is_its_own_whatever_it_sends(client: httpx.AsyncClient, sent: dict[str, object]) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x", **sent})
    assert json.loads(response.content)["cache_salt"] == "tenant-1"


def test_tenants_have_different_salts() -> None:
    payloads: list[dict[str, object]] = [{"cache_salt": "same"} for _ in range(100)]
    for tenant_id, payload in enumerate(payloads):
        set_gateway_fields(payload, tenant_id)
    assert len({payload["cache_salt"] for payload in payloads}) == 100


@pytest.mark.parametrize("priority", [0, 1, 100, None])
async def test_a_request_may_be_less_urgent(client: httpx.AsyncClient, priority: int | None) -> None:
    response = await client.post("/v1/completions", json={"prompt": "x", "priority": priority})
    assert json.loads(response.content).get("priority") == priority
    assert "null" not in response.text


@pytest.mark.parametrize("priority", [-1, 101, 1.5, "1", True, 2**70, [], {}])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_no_request_may_be_more_urgent_than_usual(client: httpx.AsyncClient, path: str, priority: object) -> None:
    response = await client.post(path, json={"messages": [], "priority": priority})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "priority", "invalid_value")
    assert "from 0 (as soon as possible) to 100" in error["message"]


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/chat/completions", 400), ("/v1/responses", 400), ("/v1/messages", 200)]
)
async def test_metadata_is_openais(client: httpx.AsyncClient, path: str, status: int) -> None:
    body = {"messages": [], "input": "x", "metadata": {"user_id": None}}
    response = await client.post(path, json=body)
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["param"] == "metadata.user_id"
    assert (await client.post(path, json={**body, "metadata": {"user_id": "5"}, "store": True})).status_code == 200


def test_the_official_client_passes_a_priority_on(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="priority is -5, expected a whole number"):
        openai_client.chat.completions.create(model="acme/base-135m", messages=[], extra_body={"priority": -5})


async def test_routes_that_do_not_run_the_model_are_left_alone(client: httpx.AsyncClient) -> None:
    body = b'{"prompt": "x",  "priority": -5}'
    response = await client.post("/tokenize", content=body, headers={"content-type": "application/json"})
    assert response.content == body
    assert "/tokenize" not in MODEL_ROUTES
