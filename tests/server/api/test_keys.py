"""API keys over HTTP: shown once, never stored, and ended at once on every gateway."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.core.clock import following
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer, expire, with_admin_key

END_OF_9999 = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


async def test_a_key_is_shown_once_and_works(operator: Operator) -> None:
    await operator.make_tenant("acme")
    made = await operator.make_key("acme", "train", "infer", requests_per_minute=60)
    key = made.pop("key")
    assert re.fullmatch(r"sk-tl-[0-9a-f]{64}", key)
    assert (await operator.http.get("/v1/models", headers=bearer(key))).status_code == 200
    path = f"/v1/tenants/acme/keys/{made['id']}"
    assert (await operator.send("GET", path)).json() == made
    assert (await operator.send("GET", "/v1/tenants/acme/keys")).json()["data"] == [made]
    assert made["scopes"] == ["infer", "train"]
    assert (made["tenant"], made["requests_per_minute"], made["revoked_at"]) == ("acme", 60, None)
    assert key.endswith(made["hint"])
    assert len(made["hint"]) == 4


async def test_no_two_keys_are_alike(operator: Operator) -> None:
    keys = [await operator.make_key("default") for _ in range(5)]
    assert len({key["key"] for key in keys}) == len({key["id"] for key in keys}) == 5


async def test_what_is_stored_is_the_digest_and_not_the_key(
    operator: Operator, settings: Settings, app_database: Database
) -> None:
    key = (await operator.make_key("default"))["key"]
    await operator.http.get("/v1/models", headers=bearer(key))
    directory = Path(settings.database_url.removeprefix("sqlite:///")).parent
    stored = b"".join(path.read_bytes() for path in directory.iterdir())
    assert hashlib.sha256(key.encode()).hexdigest().encode() in stored
    assert key.removeprefix("sk-tl-").encode() not in stored
    assert ADMIN_KEY.encode() not in stored


async def test_neither_log_nor_audit_shows_a_key(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    key = await operator.make_key("default", "adapters")
    await operator.http.post("/v1/tenants", json={"name": key["key"]}, headers=bearer(key["key"]))
    audit = await operator.send("GET", "/v1/audit")
    assert key["id"] in audit.text
    assert audit.json()["data"][0]["detail"]["scopes"] == ["adapters"]
    out, err = capsys.readouterr()
    assert "/v1/tenants/default/keys" in out
    for secret in (key["key"], ADMIN_KEY):
        assert secret not in audit.text + out + err


async def test_making_a_key_refuses_an_idempotency_key(operator: Operator) -> None:
    headers = {"idempotency-key": "once"}
    response = await operator.send("POST", "/v1/tenants/default/keys", json={"name": "k"}, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "idempotency_not_supported")
    assert (await operator.send("GET", "/v1/tenants/default/keys")).json()["data"] == []


async def test_revoking_ends_a_key_on_another_gateway_from_the_next_request_on(
    operator: Operator, settings: Settings, engine: FakeEngine
) -> None:
    key = await operator.make_key("default", "infer")
    database = Database(settings.database_url)
    async with client_of(create_app(with_admin_key(settings), engine, database)) as other:
        assert (await other.get("/v1/models", headers=bearer(key["key"]))).status_code == 200
        revoked = await operator.send("POST", f"/v1/tenants/default/keys/{key['id']}/revoke")
        assert revoked.json()["revoked_at"] is not None
        assert (await other.get("/v1/models", headers=bearer(key["key"]))).status_code == 401
    database.close()


async def test_a_key_made_on_one_gateway_works_on_another_until_it_expires(
    operator: Operator, settings: Settings, engine: FakeEngine
) -> None:
    database = Database(settings.database_url)
    async with client_of(create_app(with_admin_key(settings), engine, database)) as other:
        key = await operator.make_key("default", "infer", expires_in_s=3600)
        assert (await other.get("/v1/models", headers=bearer(key["key"]))).status_code == 200
        expire(database, key["id"])
        assert (await other.get("/v1/models", headers=bearer(key["key"]))).status_code == 401
    assert (await operator.http.get("/v1/models", headers=bearer(key["key"]))).status_code == 401
    database.close()


async def test_the_time_of_expiry_is_as_asked_for(operator: Operator) -> None:
    at = await operator.make_key("default", expires_at=2**35)
    after = await operator.make_key("default", expires_in_s=3600)
    never = await operator.make_key("default")
    assert (at["expires_at"], never["expires_at"]) == (2**35, None)
    assert after["expires_at"] - after["created_at"] in (3599, 3600)


async def test_a_key_ends_at_its_second(operator: Operator) -> None:
    with following(lambda: 5000):
        key = await operator.make_key("default", "infer", expires_in_s=60)
    assert (key["created_at"], key["expires_at"]) == (5000, 5060)
    with following(lambda: 5059.9):
        assert (await operator.http.get("/v1/models", headers=bearer(key["key"]))).status_code == 200
    with following(lambda: 5060):
        assert (await operator.http.get("/v1/models", headers=bearer(key["key"]))).status_code == 401


async def test_revoking_again_changes_nothing(operator: Operator) -> None:
    key = await operator.make_key("default")
    path = f"/v1/tenants/default/keys/{key['id']}/revoke"
    answers = [await operator.send("POST", path) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    # Who looks for who ended the key finds one line.
    audit = (await operator.send("GET", "/v1/audit?action=key.revoke")).json()["data"]
    assert [entry["target"] for entry in audit] == [f"default/{key['id']}"]


async def test_the_audit_log_says_which_key_made_a_change(operator: Operator) -> None:
    await operator.make_tenant("acme")
    key = await operator.make_key("acme", "adapters")
    await operator.http.post("/v1/adapters", json={"name": "a", "vector": [1.0] * 13}, headers=bearer(key["key"]))
    (entry,) = (await operator.http.get("/v1/audit", headers=bearer(key["key"]))).json()["data"]
    assert (entry["tenant"], entry["api_key_id"], entry["action"]) == ("acme", key["id"], "adapter.create")


async def test_keys_with_the_scope_admin_are_of_the_default_tenant_only(operator: Operator) -> None:
    await operator.make_tenant("acme")
    body = {"name": "k", "scopes": ["admin"]}
    refused = await operator.send("POST", "/v1/tenants/acme/keys", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "scopes")
    assert "'default'" in refused.json()["error"]["message"]
    key = (await operator.make_key("default", "admin"))["key"]
    made = await operator.http.post("/v1/tenants", json={"name": "globex"}, headers=bearer(key))
    assert made.status_code == 201


async def test_a_keys_own_quota_holds_beside_its_tenants(operator: Operator) -> None:
    await operator.make_tenant("acme", requests_per_minute=3)
    narrow = (await operator.make_key("acme", requests_per_minute=1))["key"]
    wide = (await operator.make_key("acme"))["key"]
    statuses = []
    for key in (narrow, narrow, wide, wide, wide):
        response = await operator.http.post("/v1/chat/completions", json={"messages": []}, headers=bearer(key))
        statuses.append(response.status_code)
    assert statuses == [200, 429, 200, 200, 429]


async def test_pages_of_keys_hold_every_key_once_newest_first(operator: Operator) -> None:
    made = [(await operator.make_key("default", name=f"key {number}"))["id"] for number in range(5)]
    listed, query = [], "limit=2"
    while query:
        page = (await operator.send("GET", f"/v1/tenants/default/keys?{query}")).json()
        assert len(page["data"]) <= 2
        listed += page["data"]
        query = f"limit=2&after={page['last_id']}" if page["has_more"] else ""
    assert sorted(key["id"] for key in listed) == sorted(made)
    times = [key["created_at"] for key in listed]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("key", "code"),
    [("key_nobodys", "key_not_found"), ("%00", "not_found"), ("key_%00", "not_found"), ("ä", "key_not_found")],
)
async def test_a_key_that_is_none_is_not_found(operator: Operator, key: str, code: str) -> None:
    path = f"/v1/tenants/default/keys/{key}"
    for method, url in (("GET", path), ("POST", f"{path}/revoke")):
        response = await operator.send(method, url)
        assert (response.status_code, response.json()["error"]["code"]) == (404, code)
    response = await operator.send("GET", f"/v1/tenants/default/keys?after={key}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "after")


async def test_another_tenants_key_is_not_found(operator: Operator) -> None:
    await operator.make_tenant("acme")
    key = await operator.make_key("acme")
    answers = [await operator.send("GET", f"/v1/tenants/default/keys/{id}") for id in (key["id"], "key_nobodys")]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text == answers[1].text.replace("key_nobodys", key["id"])
    assert (await operator.send("POST", f"/v1/tenants/default/keys/{key['id']}/revoke")).status_code == 404
    assert (await operator.send("GET", "/v1/tenants/default/keys")).json()["data"] == []
    assert (await operator.http.get("/v1/models", headers=bearer(key["key"]))).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": " a"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": ["everything"]}, "scopes[0]"),
        ({"name": "k", "scopes": "infer"}, "scopes"),
        ({"name": "k", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "k", "expires_at": 1}, "expires_at"),
        ({"name": "k", "expires_at": 2**62}, "expires_at"),
        ({"name": "k", "expires_at": END_OF_9999 + 1}, "expires_at"),
        ({"name": "k", "expires_in_s": END_OF_9999}, "expires_in_s"),
        ({"name": "k", "expires_at": 2**35, "expires_in_s": 5}, "expires_in_s"),
        ({"name": "k", "tokens_per_minute": 0}, "tokens_per_minute"),
        ({"name": "k", "key": "sk-tl-of-my-own"}, "key"),
    ],
)
async def test_what_is_wrong_with_a_key_is_named(operator: Operator, body: dict[str, Any], param: str) -> None:
    response = await operator.send("POST", "/v1/tenants/default/keys", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_key_lasts_to_the_end_of_the_year_9999_at_most(operator: Operator) -> None:
    assert (await operator.make_key("default", expires_at=END_OF_9999))["expires_at"] == END_OF_9999
    sent = {"name": "k", "expires_in_s": END_OF_9999}
    message = (await operator.send("POST", "/v1/tenants/default/keys", json=sent)).json()["error"]["message"]
    most = int(re.search("expected at most ([0-9]+)", message)[1])  # type: ignore[index]
    last = await operator.make_key("default", expires_in_s=most - 60)
    assert END_OF_9999 - 120 < last["expires_at"] <= END_OF_9999


async def test_names_may_be_in_any_language(operator: Operator) -> None:
    assert (await operator.make_key("default", name="Schlüssel für 工場"))["name"] == "Schlüssel für 工場"


def test_the_api_description_tells_of_the_key_in_the_answer_only_where_it_is_made(keyed_app: FastAPI) -> None:
    with_key = [
        name for name, schema in keyed_app.openapi()["components"]["schemas"].items() if "sk-tl" in json.dumps(schema)
    ]
    assert with_key == ["NewKeyObject"]
