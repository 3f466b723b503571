"""What a tenant may use in a month: refused when it is spent, as OpenAI's clients know it, until the next begins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from server.core.clock import following
from server.core.months import next_month
from tests.server.support.keyed import Operator, bearer
from tests.server.support.served import served

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
TOKENS = 5  # of a request to the engine of the tests
# In the middle of a month, so that no test meets its end.
NOW = datetime(2026, 11, 15, tzinfo=UTC).timestamp()


async def chat(operator: Operator, key: str) -> httpx.Response:
    """A request whose usage is then in the database."""
    answer = await operator.http.post("/v1/chat/completions", json=CHAT, headers=bearer(key))
    await operator.send("GET", "/v1/usage", params={"start_time": 0})
    return answer


async def test_a_spent_month_ends_a_tenants_requests_until_the_next(operator: Operator) -> None:
    with following(lambda: NOW):
        await operator.make_tenant("acme", tokens_per_month=2 * TOKENS)
        key = (await operator.make_key("acme", "infer", "train"))["key"]
        answers = [await chat(operator, key) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        left = [answer.headers["x-ratelimit-remaining-month-tokens"] for answer in answers]
        assert left == [str(2 * TOKENS), str(TOKENS), "0"]
        error = answers[2].json()["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert "has used 10 in November 2026. The next month begins at 2026-12-01T00:00:00Z" in error["message"]
        assert answers[2].headers["x-should-retry"] == "false"
        job = {"model": "acme/base-135m", "training_file": "file-1"}
        refused = await operator.http.post("/v1/fine_tuning/jobs", json=job, headers=bearer(key))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        other = await operator.new_key("globex")
        assert (await chat(operator, other)).status_code == 200
    with following(lambda: next_month(int(NOW))):
        assert (await chat(operator, key)).status_code == 200


async def test_the_operator_can_allow_more_at_once(operator: Operator) -> None:
    await operator.make_tenant("acme", tokens_per_month=TOKENS)
    key = (await operator.make_key("acme"))["key"]
    assert [(await chat(operator, key)).status_code for _ in range(2)] == [200, 429]
    await operator.send("PATCH", "/v1/tenants/acme", json={"tokens_per_month": 2 * TOKENS})
    assert (await chat(operator, key)).status_code == 200
    await operator.send("PATCH", "/v1/tenants/acme", json={"tokens_per_month": None})
    answer = await chat(operator, key)
    assert answer.status_code == 200 and "x-ratelimit-remaining-month-tokens" not in answer.headers


async def test_what_acts_for_a_tenant_with_the_operators_key_counts_and_is_not_refused(operator: Operator) -> None:
    await operator.make_tenant("acme", tokens_per_month=TOKENS)
    key = (await operator.make_key("acme"))["key"]
    for _ in range(2):
        answer = await operator.send("POST", "/v1/chat/completions", json=CHAT, headers={"OpenAI-Organization": "acme"})
        assert answer.status_code == 200
    await operator.send("GET", "/v1/usage", params={"start_time": 0})
    assert (await chat(operator, key)).status_code == 429


async def test_limits_say_what_is_left_and_take_nothing(operator: Operator) -> None:
    with following(lambda: NOW):
        await operator.make_tenant(
            "acme",
            tokens_per_month=100,
            requests_per_minute=60,
            max_concurrent_requests=5,
            priority_requests_per_minute=2,
        )
        key = await operator.make_key("acme", tokens_per_minute=60_000, max_concurrent_requests=3)
        await chat(operator, key["key"])
        for _ in range(2):
            limits = (await operator.http.get("/v1/limits", headers=bearer(key["key"]))).json()
        quotas = {(quota["owner"], quota["counted"], quota["per"]): quota for quota in limits.pop("quotas")}
    assert limits == {
        "object": "limits",
        "tenant": "acme",
        "key": key["id"],
        "max_concurrent_requests": 3,
        "priority_requests_per_minute": 2,
    }
    assert quotas.keys() == {
        ("tenant acme", "requests", "minute"),
        (f"key {key['id']}", "tokens", "minute"),
        ("tenant acme", "tokens", "month"),
    }
    month = quotas["tenant acme", "tokens", "month"]
    assert (month["limit"], month["remaining"], month["reset_s"]) == (100, 95, 16 * 86_400)
    assert quotas["tenant acme", "requests", "minute"]["remaining"] >= 59
    of_operator = (await operator.send("GET", "/v1/limits")).json()
    assert of_operator["quotas"] == []


async def test_openais_client_knows_the_error_and_does_not_try_again(operator: Operator, keyed_app: FastAPI) -> None:
    await operator.make_tenant("acme", tokens_per_month=TOKENS)
    key = (await operator.make_key("acme"))["key"]
    await chat(operator, key)
    asked = 0

    def count(_request: Any) -> None:
        nonlocal asked
        asked += 1

    with served(keyed_app) as url:
        hooks = {"request": [count]}
        with (
            openai.OpenAI(
                base_url=f"{url}/v1", api_key=key, http_client=openai.DefaultHttpxClient(event_hooks=hooks)
            ) as client,
            pytest.raises(openai.RateLimitError) as refused,
        ):
            client.chat.completions.create(model="acme/base-135m", messages=[{"role": "user", "content": "x"}])
    assert (refused.value.code, asked) == ("insufficient_quota", 1)
