"""What is left of quotas, and a month that is spent, as the client tells it."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, bearer, with_admin_key
from tinylora_client import InsufficientQuotaError


@pytest.fixture
def app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    return create_app(with_admin_key(settings), engine, app_database)


def test_a_month_is_used_up(connect: Any, base_url: str) -> None:
    with httpx.Client(base_url=base_url, headers=bearer(ADMIN_KEY)) as operator:
        operator.post("/v1/tenants", json={"name": "acme", "tokens_per_month": 5}).raise_for_status()
        key = operator.post("/v1/tenants/acme/keys", json={"name": "k"}).json()["key"]
        client = connect(api_key=key)
        (month,) = client.limits().quotas
        assert (month.owner, month.counted, month.per, month.remaining) == ("tenant acme", "tokens", "month", 5)
        messages: list[Any] = [{"role": "user", "content": "x"}]
        client.chat.completions.create(model="acme/base-135m", messages=messages)
        operator.get("/v1/usage", params={"start_time": 0}).raise_for_status()  # brings it to the database
        assert client.limits().quotas[0].remaining == 0
        with pytest.raises(InsufficientQuotaError, match="The next month begins at") as refused:
            client.chat.completions.create(model="acme/base-135m", messages=messages)
        assert isinstance(refused.value, openai.RateLimitError)
