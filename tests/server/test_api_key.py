"""An API key that vLLM checks guards our routes under both of their names, and its refusal has OpenAI's shape."""

from collections.abc import AsyncIterator

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

from server.app import create_app
from server.database import Database
from server.settings import Settings
from tests.server.conftest import client_of
from tests.server.fake_engine import BASE, FakeEngine

KEY = "sesame"


class GuardedEngine(FakeEngine):
    def mount(self, app: FastAPI) -> None:
        super().mount(app)
        app.add_middleware(AuthenticationMiddleware, tokens=[KEY])


@pytest.fixture
def guarded(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    return create_app(settings, GuardedEngine(engine.factors), app_database)


@pytest.fixture
async def guarded_client(guarded: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(guarded) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/adapters"),
        ("POST", "/adapters?name=a"),
        ("DELETE", "/adapters/acme%2Fmath"),
        ("GET", "/v1/adapters/acme/math/vector"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_request_without_the_key_is_refused(
    guarded_client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    response = await guarded_client.request(method, path, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert response.headers["x-request-id"]
    assert response.headers["www-authenticate"] == "Bearer"


async def test_adapter_is_not_even_looked_up_without_the_key(guarded_client: httpx.AsyncClient) -> None:
    await guarded_client.post("/v1/chat/completions", json={"messages": [], "adapter": "a"})
    assert "tinylora_adapter_resolves_total{" not in (await guarded_client.get("/metrics")).text


async def test_request_with_the_key_is_served(guarded_client: httpx.AsyncClient) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"name": "a", "vector": [1.0] * 13}
    assert (await guarded_client.post("/adapters", json=body, headers=headers)).status_code == 201
    assert (await guarded_client.get("/v1/adapters/a", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_probes_need_no_key(guarded_client: httpx.AsyncClient, path: str) -> None:
    assert (await guarded_client.get(path)).status_code == 200


async def test_openais_client_tells_of_the_key(guarded: FastAPI) -> None:
    http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(guarded))
    async with openai.AsyncOpenAI(base_url="http://gateway/v1", api_key="wrong", http_client=http_client) as client:
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            await client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
