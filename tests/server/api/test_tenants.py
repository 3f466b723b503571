"""Tenants over HTTP, as their operator makes and changes them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.support.fake_engine import BASE
from tests.server.support.keyed import Operator, bearer
from tests.server.support.training_kit import REINFORCEMENT, ROWS

NO_QUOTAS = {
    "max_adapters": None,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "max_concurrent_requests": None,
    "weight": 1.0,
    "tokens_per_month": None,
    "priority_requests_per_minute": None,
}


async def test_a_tenant_is_found_as_it_was_made(operator: Operator) -> None:
    quotas = {"max_adapters": 0, "requests_per_minute": 60, "tokens_per_minute": 10_000, "max_concurrent_requests": 3}
    quotas |= {"tokens_per_month": 10**9, "priority_requests_per_minute": 5}
    made = await operator.make_tenant("acme", **quotas, weight=2.5)
    assert made.pop("created_at") > 1_700_000_000
    assert made == {
        **{"id": "acme", "object": "tenant", "name": "acme", "disabled_at": None, "adapter_count": 0, "weight": 2.5},
        **quotas,
    }
    found = (await operator.send("GET", "/v1/tenants/acme")).json()
    assert {name: found[name] for name in made} == made


async def test_the_default_tenant_is_there_from_the_beginning(operator: Operator) -> None:
    page = (await operator.send("GET", "/v1/tenants")).json()
    assert [tenant["id"] for tenant in page["data"]] == ["default"]
    assert {name: page["data"][0][name] for name in NO_QUOTAS} == NO_QUOTAS


async def test_pages_follow_each_other_by_name(operator: Operator) -> None:
    for name in ("b", "a", "c"):
        await operator.make_tenant(name)
    first = (await operator.send("GET", "/v1/tenants?limit=2")).json()
    assert ([tenant["id"] for tenant in first["data"]], first["has_more"]) == (["a", "b"], True)
    second = (await operator.send("GET", f"/v1/tenants?limit=2&after={first['last_id']}")).json()
    assert ([tenant["id"] for tenant in second["data"]], second["has_more"]) == (["c", "default"], False)


async def test_a_change_concerns_what_it_names_and_null_takes_a_limit_away(operator: Operator) -> None:
    await operator.make_tenant("acme", requests_per_minute=60, max_adapters=5, weight=2.0)
    change = {"requests_per_minute": None, "tokens_per_minute": 100}
    changed = (await operator.send("PATCH", "/v1/tenants/acme", json=change)).json()
    expected = {**NO_QUOTAS, "tokens_per_minute": 100, "max_adapters": 5, "weight": 2.0}
    assert {name: changed[name] for name in expected} == expected
    same = (await operator.send("PATCH", "/v1/tenants/acme", json={})).json()
    assert same == changed == (await operator.send("GET", "/v1/tenants/acme")).json()


async def test_a_quota_holds_from_the_next_request_on(operator: Operator) -> None:
    key = await operator.new_key("acme", "adapters")
    await operator.send("PATCH", "/v1/tenants/acme", json={"max_adapters": 1})
    statuses = []
    for name in ("a", "b"):
        body = {"name": name, "vector": [1.0] * 13}
        statuses.append((await operator.http.post("/v1/adapters", json=body, headers=bearer(key))).status_code)
    assert statuses == [201, 400]
    assert (await operator.send("GET", "/v1/tenants/acme")).json()["adapter_count"] == 1


async def test_disabling_twice_keeps_the_time_of_the_first(operator: Operator) -> None:
    await operator.make_tenant("acme")
    first = (await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": True})).json()
    again = (await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": True, "weight": 3.0})).json()
    assert first["disabled_at"] is not None
    assert again == {**first, "weight": 3.0}


async def test_the_jobs_of_a_disabled_tenant_are_paused(operator: Operator) -> None:
    key = bearer(await operator.new_key("acme", "train"))
    file = {"file": ("rows.jsonl", ROWS)}
    uploaded = await operator.http.post("/v1/files", data={"purpose": "fine-tune"}, files=file, headers=key)
    job = {"model": BASE, "training_file": uploaded.json()["id"], "method": REINFORCEMENT}
    made = await operator.http.post("/v1/fine_tuning/jobs", json=job, headers=key)
    assert made.status_code == 200, made.text

    await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": True})

    path, acting = f"/v1/fine_tuning/jobs/{made.json()['id']}", {"openai-organization": "acme"}
    await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": False})
    assert (await operator.send("GET", path, headers=acting)).json()["status"] == "paused"


async def test_the_default_tenant_cannot_be_disabled(operator: Operator) -> None:
    response = await operator.send("PATCH", "/v1/tenants/default", json={"disabled": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "disabled")


async def test_a_name_is_given_once(operator: Operator) -> None:
    await operator.make_tenant("acme")
    for name in ("acme", "default"):
        response = await operator.send("POST", "/v1/tenants", json={"name": name})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "tenant_exists")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "~a"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "ä"}, "name"),
        ({"name": "a", "weight": 0}, "weight"),
        ({"name": "a", "weight": None}, "weight"),
        ({"name": "a", "requests_per_minute": 0}, "requests_per_minute"),
        ({"name": "a", "requests_per_minute": "1"}, "requests_per_minute"),
        ({"name": "a", "tokens_per_minute": 2**70}, "tokens_per_minute"),
        ({"name": "a", "max_adapters": -1}, "max_adapters"),
        ({"name": "a", "disabled": True}, "disabled"),
    ],
)
async def test_what_is_wrong_with_a_tenant_is_named(operator: Operator, body: dict[str, Any], param: str) -> None:
    response = await operator.send("POST", "/v1/tenants", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_numbers_that_are_none_are_refused(operator: Operator) -> None:
    for number in ("NaN", "Infinity", "1e999"):
        content = f'{{"name": "a", "weight": {number}}}'.encode()
        response = await operator.send(
            "POST", "/v1/tenants", content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400


@pytest.mark.parametrize(("name", "status"), [("nobody", 404), ("a%20b", 400), ("a" * 300, 400)])
async def test_a_tenant_that_is_none_is_not_found(operator: Operator, name: str, status: int) -> None:
    for method, path, body in (
        ("GET", f"/v1/tenants/{name}", None),
        ("PATCH", f"/v1/tenants/{name}", {"weight": 2.0}),
        ("GET", f"/v1/tenants/{name}/keys", None),
        ("POST", f"/v1/tenants/{name}/keys", {"name": "k"}),
        ("POST", f"/v1/tenants/{name}/keys/key_1/revoke", None),
    ):
        response = await operator.send(method, path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (status, "tenant")


async def test_there_is_no_deleting(operator: Operator) -> None:
    await operator.make_tenant("acme")
    assert (await operator.send("DELETE", "/v1/tenants/acme")).status_code == 405


async def test_making_a_tenant_again_with_its_idempotency_key_answers_the_same(operator: Operator) -> None:
    answers = [
        await operator.send("POST", "/v1/tenants", json={"name": "acme"}, headers={"idempotency-key": "once"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotent-replayed"] == "true"


async def test_changes_are_in_the_operators_audit_log(operator: Operator) -> None:
    await operator.make_tenant("acme", weight=2.0)
    await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": True})
    await operator.send("PATCH", "/v1/tenants/nobody", json={"disabled": True})
    entries = (await operator.send("GET", "/v1/audit")).json()["data"]
    assert [(entry["action"], entry["target"], entry["tenant"]) for entry in entries] == [
        ("tenant.update", "acme", "default"),
        ("tenant.create", "acme", "default"),
    ]
    assert entries[0]["detail"] == {"disabled": True}
    assert entries[1]["detail"]["weight"] == 2.0


async def test_who_changes_nothing_leaves_no_line(operator: Operator) -> None:
    await operator.make_tenant("acme", weight=2.0)
    for change in ({"disabled": True}, {"disabled": True}, {"weight": 2.0}, {}):
        assert (await operator.send("PATCH", "/v1/tenants/acme", json=change)).status_code == 200
    audit = (await operator.send("GET", "/v1/audit?action=tenant.update")).json()["data"]
    assert [entry["detail"] for entry in audit] == [{"disabled": True}]
