"""What /metrics says: read by Prometheus' own parser."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from server.api.app import create_app
from server.core.principal import Tenant
from server.core.request_state import RequestUsage
from server.core.settings import Settings
from server.db.database import Database
from server.engine.protocol import ServedAdapter
from server.observability.metrics import GatewayMetrics
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


async def scrape(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


def observe(metrics: GatewayMetrics, tenant: str, adapter: str | None, prompt: int, completion: int) -> None:
    served = None if adapter is None else ServedAdapter(f"{adapter}@1", None, adapter)  # type: ignore[arg-type]
    metrics.observe_request(Tenant(7, tenant), served, 200, RequestUsage(prompt, completion))


def test_adapters_and_tenants_beyond_the_most_used_share_a_label() -> None:
    metrics = GatewayMetrics(max_adapters=2, max_tenants=1)
    for tenant, name in (("t", "a"), ("t", "b"), ("t", "c"), ("u", "d"), ("t", "a")):
        observe(metrics, tenant, name, 2, 3)
    observe(metrics, "t", None, 10, 20)
    text = metrics.render().decode()
    for label, prompt, completion in (("a", 4, 6), ("b", 2, 3), ("other", 4, 6), ("base", 10, 20)):
        assert value(text, "tinylora_prompt_tokens_total", adapter=label) == prompt
        assert value(text, "tinylora_completion_tokens_total", adapter=label) == completion
    assert value(text, "tinylora_tenant_requests_total", tenant="t", status="2xx") == 5
    assert value(text, "tinylora_tenant_prompt_tokens_total", tenant="t") == 18
    assert value(text, "tinylora_tenant_completion_tokens_total", tenant="other") == 3


async def test_requests_are_counted_by_their_tenant_and_tokens_by_the_engine(client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        await client.post("/v1/chat/completions", json={"messages": [], "stream": stream})
    await client.post("/v1/chat/completions", json={"messages": [], "adapter": "none"})
    text = await scrape(client)
    assert value(text, "tinylora_tenant_requests_total", tenant="default", status="2xx") == 2
    assert value(text, "tinylora_tenant_requests_total", tenant="default", status="4xx") == 1
    assert value(text, "tinylora_tenant_prompt_tokens_total", tenant="default") == 6
    assert value(text, "tinylora_tenant_completion_tokens_total", tenant="default") == 4


async def test_requests_are_timed_by_the_template_of_their_route(client: httpx.AsyncClient) -> None:
    for name in ("a/b", "c"):
        await client.post("/adapters", json={"name": name, "vector": [0.5] * 13})
        await client.get(f"/adapters/{name}")
    for number in range(3):
        await client.get(f"/nowhere/{number}")
        await client.request(f"METHOD{number}", "/v1/adapters")
    await client.post("/v1/fail/defect", json={})
    counts = {
        dict(labels)["method"] + " " + dict(labels)["route"] + " " + dict(labels)["status"]: number
        for (name, labels), number in samples(await scrape(client)).items()
        if name == "tinylora_http_request_duration_seconds_count"
    }
    assert counts == {
        "POST /v1/adapters 2xx": 2,
        "GET /v1/adapters/{name:path} 2xx": 2,
        "GET none 4xx": 3,
        "other /v1/adapters 4xx": 3,
        "POST /v1/fail/{kind} 5xx": 1,
    }


async def test_uploads_and_look_ups_are_timed(client: httpx.AsyncClient) -> None:
    await client.post("/adapters", json={"name": "a", "vector": [0.5] * 13})
    await client.post("/adapters", json={"name": "a", "vector": []})
    for adapter in ("a", "none"):
        await client.post("/v1/chat/completions", json={"messages": [], "adapter": adapter})
    text = await scrape(client)
    assert value(text, "tinylora_adapter_upload_duration_seconds_count") == 2
    assert value(text, "tinylora_adapter_resolve_duration_seconds_count") == 2


@pytest.mark.parametrize(("label", "allowed"), [("adapter", 3), ("tenant", 0)])
async def test_the_settings_bound_the_labels(
    settings: Settings, engine: FakeEngine, app_database: Database, label: str, allowed: int
) -> None:
    bounded = settings.model_copy(update={"max_labelled_adapters": 3, "max_labelled_tenants": 0})
    app: FastAPI = create_app(bounded, engine, app_database)
    async with client_of(app) as client:
        for number in range(6):
            await client.post("/adapters", json={"name": f"a{number}", "vector": [0.5] * 13})
            await client.post("/v1/chat/completions", json={"messages": [], "adapter": f"a{number}"})
        text = await scrape(client)
    names = {dict(labels).get(label) for (name, labels), _ in samples(text).items() if name.startswith("tinylora_")}
    assert len(names - {None, "other", "all"}) == allowed


async def test_requests_are_measured_as_the_conventions_of_generative_ai_say(client: httpx.AsyncClient) -> None:
    for stream in (False, True):
        await client.post("/v1/chat/completions", json={"messages": [], "stream": stream})
    await client.post("/v1/completions", json={"prompt": "x"})
    await client.post("/v1/chat/completions", json={"messages": [], "model": "none"})
    text = await scrape(client)
    labels = {"gen_ai_provider_name": "vllm", "gen_ai_request_model": "acme/base-135m"}
    chat = {**labels, "gen_ai_operation_name": "chat"}
    assert value(text, "gen_ai_server_request_duration_seconds_count", **chat, error_type="") == 2
    assert value(text, "gen_ai_server_time_to_first_token_seconds_count", **chat) == 2
    assert value(text, "gen_ai_server_time_per_output_token_seconds_count", **chat) == 2
    completion = {**labels, "gen_ai_operation_name": "text_completion"}
    assert value(text, "gen_ai_server_request_duration_seconds_count", **completion, error_type="") == 1
