"""What clients may say about urgency and may not say about shared prefixes."""

import json

import httpx
import openai
import pytest

from server.core.paths import MODEL_ROUTES
from server.inference.gateway_fields import set_gateway_fields
from tests.server.support.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"


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


# Of vLLM's /v1/messages the body has no field for it.
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(
    ("header", "body", "passed_on"),
    [
        (None, {}, None),
        (None, {"priority": 7}, "7"),
        ("5", {}, "5"),
        ("5", {"priority": 7}, "5"),  # as in vLLM
        ("0", {}, "0"),
        (None, {"service_tier": "flex"}, "50"),
    ],
)
async def test_vllms_header_says_the_priority_as_the_field_does(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    path: str,
    header: str | None,
    body: dict[str, object],
    passed_on: str | None,
) -> None:
    headers = {"X-Data-Parallel-Rank": "3"} | ({} if header is None else {"X-Vllm-Priority": header})
    response = await client.post(path, json={"messages": [], "input": "x", **body}, headers=headers)
    assert response.status_code == 200
    got = engine.heard[-1]
    assert (got.get("x-vllm-priority"), got.get("x-data-parallel-rank")) == (passed_on, None)


@pytest.mark.parametrize("header", ["-1", "101", "1.5", "soon", "", "1" * 400, "\u00b2"])
async def test_no_header_makes_a_request_more_urgent(
    client: httpx.AsyncClient, engine: FakeEngine, header: str
) -> None:
    headers = {b"X-Vllm-Priority": header.encode("latin-1")}
    response = await client.post("/v1/messages", json={"messages": []}, headers=headers)
    assert (response.status_code, engine.heard) == (400, [])
    assert "priority is" in response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["kv_transfer_params", "ec_transfer_params", "features"])
@pytest.mark.parametrize("place", ["{}", "vllm_xargs", "sampling_params"])
async def test_no_client_speaks_for_a_server_that_shares_the_work(
    client: httpx.AsyncClient, engine: FakeEngine, name: str, place: str
) -> None:
    claim: dict[str, object] = {name: {"do_remote_prefill": True, "remote_prefill_cached_tokens": 10**15}}
    parameters = {"extra_args": claim} if place == "sampling_params" else claim
    response = await client.post(CHAT, json={"messages": [], **(claim if place == "{}" else {place: parameters})})
    error = response.json()["error"]
    assert (response.status_code, error["code"], engine.heard) == (400, "unknown_parameter", [])
    assert error["param"].endswith(name)
    said_nothing = {name: None, "vllm_xargs": {name: None}}
    assert (await client.post(CHAT, json={"messages": [], **said_nothing})).status_code == 200


def test_the_official_client_passes_a_priority_on(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="priority is -5, expected a whole number"):
        openai_client.chat.completions.create(model="acme/base-135m", messages=[], extra_body={"priority": -5})


async def test_routes_that_do_not_run_the_model_are_left_alone(client: httpx.AsyncClient) -> None:
    body = b'{"prompt": "x",  "priority": -5}'
    response = await client.post("/tokenize", content=body, headers={"content-type": "application/json"})
    assert response.content == body
    assert "/tokenize" not in MODEL_ROUTES
