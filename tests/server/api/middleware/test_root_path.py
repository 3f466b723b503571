"""A server below a path that its proxy leaves in every request."""

from __future__ import annotations

import openai

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import with_admin_key


async def test_every_path_is_there_with_the_prefix_and_without(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    async with client_of(create_app(settings, engine, app_database, root_path="/llm")) as client:
        for path in ("/v1/models", "/adapters", "/console/", "/docs", "/metrics", "/ready"):
            answers = [await client.get(f"{prefix}{path}") for prefix in ("", "/llm")]
            assert [answer.status_code for answer in answers] == [200, 200], path
        assert (await client.get("/llm")).status_code == (await client.get("/")).status_code
        assert (await client.get("/llmx/v1/models")).status_code == 404
        # Nothing behind a second prefix, which would be routed by vLLM's handlers and charged to nobody.
        assert (await client.get("/llm/llm/v1/models")).status_code == 404
        assert (await client.post("/llm/llm/v1/completions", json={"prompt": "hi"})).status_code == 404
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/llm"}]
        mine = openai.AsyncOpenAI(base_url=f"{client.base_url}/llm/v1", api_key="none", http_client=client)
        answer = await mine.chat.completions.create(
            model=engine.base_models[0], messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content


async def test_the_prefix_opens_nothing_that_needs_a_key(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    app = create_app(with_admin_key(settings), engine, app_database, root_path="/llm")
    async with client_of(app) as client:
        for path in ("/v1/models", "/adapters", "/v1/tenants", "/llm/v1/models", "/health/../v1/models"):
            assert (await client.get(f"/llm{path}")).status_code == 401, path
