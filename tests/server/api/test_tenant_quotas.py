"""Quotas and weights that an operator sets over the API, as a tenant's keys meet them."""

import httpx
import pytest

from tests.server.support.keyed import Operator, bearer


async def chat(operator: Operator, key: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20}
    return await operator.http.post("/v1/chat/completions", json=body, headers=bearer(key))


async def test_keys_share_their_tenants_quota_and_may_have_a_smaller_one(operator: Operator) -> None:
    await operator.make_tenant("acme", requests_per_minute=3)
    wide = (await operator.make_key("acme"))["key"]
    narrow = await operator.make_key("acme", requests_per_minute=1)
    answers = [await chat(operator, key) for key in (narrow["key"], narrow["key"], wide, wide, wide)]
    assert [answer.status_code for answer in answers] == [200, 429, 200, 200, 429]
    assert f"key {narrow['id']} on requests per minute: limit 1, used 1" in answers[1].json()["error"]["message"]
    assert "tenant acme on requests per minute: limit 3, used 3" in answers[4].json()["error"]["message"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "1"  # of two quotas the one with less left
    assert answers[3].headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_changed_quota_holds_at_the_next_request(operator: Operator) -> None:
    key = await operator.new_key("acme")
    assert (await chat(operator, key)).status_code == 200
    await operator.send("PATCH", "/v1/tenants/acme", json={"tokens_per_minute": 10})
    refused = await chat(operator, key)
    assert (refused.status_code, refused.headers["x-should-retry"]) == (429, "false")
    await operator.send("PATCH", "/v1/tenants/acme", json={"tokens_per_minute": None})
    assert (await chat(operator, key)).status_code == 200


@pytest.mark.parametrize("acting_for", [{}, {"OpenAI-Organization": "acme"}])
async def test_the_operator_has_no_quota(operator: Operator, acting_for: dict[str, str]) -> None:
    await operator.make_tenant("acme", requests_per_minute=1)
    for _ in range(3):
        answer = await operator.send("POST", "/v1/chat/completions", json={"messages": []}, headers=acting_for)
        assert answer.status_code == 200
