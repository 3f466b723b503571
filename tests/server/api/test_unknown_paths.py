"""Paths that no route has, as callers with and without keys meet them; and slashes where none belong."""

from __future__ import annotations

import httpx
import openai
import pytest

from server.core.paths import MODEL_ROUTES, OPERATOR_PATHS, REFUSED_ROUTES
from tests.server.support.fake_engine import BASE
from tests.server.support.keyed import ADMIN_KEY, Operator, bearer

CHAT = "/v1/chat/completions"
UNKNOWN = [
    # (sent, what was probably meant)
    ("/no/such/route", None),
    ("/", None),
    ("//", None),
    ("/v1", None),
    ("/v1/chat/completion", CHAT),
    ("/chat/completions", CHAT),
    ("/chat/completion", CHAT),
    ("/v1/v1/chat/completions", CHAT),
    ("/v1//chat/completions", CHAT),
    ("/v1/batches/", "/v1/batches"),
    ("/v1/models/", "/v1/models"),
    ("/v1/adapters/", "/v1/adapters"),
    ("/adapters/", "/v1/adapters"),
    ("/usage/", "/v1/usage"),
    ("/tokenise", "/tokenize"),
    ("/v1/finetuning/jobs", "/v1/fine_tuning/jobs"),
    ("/v1/file/file-1/content", "/v1/files/file-1/content"),
    ("/v1/tenant", "/v1/tenants"),
    ("/v1/batch/..", None),
    ("/batches/%2e%2e/", None),
    ("/v1/" + "chat/completion" * 1000, None),
]


def nearest(error: dict[str, str]) -> str | None:
    _, _, hint = error["message"].partition("Did you mean ")
    assert hint or "GET /docs shows" in error["message"]
    return hint.removesuffix("?") or None


@pytest.mark.parametrize("scope", ["infer", "adapters", "train", "admin"])
async def test_every_key_is_told_that_a_path_does_not_exist(operator: Operator, scope: str) -> None:
    key = bearer((await operator.make_key("default", scope))["key"])
    for method in ("GET", "POST", "DELETE"):
        for path, meant in UNKNOWN:
            response = await operator.http.request(method, f"http://localhost{path}", headers=key)
            error = response.json()["error"]
            assert (response.status_code, error["type"], error["param"], error["code"]) == (
                404, "invalid_request_error", None, "not_found",
            ), path  # fmt: skip
            assert error["message"].startswith(f"There is no route {method} /") and len(error["message"]) < 300
            assert nearest(error) == meant, path


async def test_without_a_key_they_look_like_those_that_exist(operator: Operator) -> None:
    told = {(await operator.http.get(f"http://localhost{path}")).text for path, _ in UNKNOWN}
    told.add((await operator.http.get("/v1/models")).text)
    assert len(told) == 1 and '"invalid_api_key"' in told.pop()


async def test_what_exists_is_refused_as_before(operator: Operator) -> None:
    key = bearer(await operator.new_key("acme"))
    for method, path in [
        ("GET", "/metrics"),
        ("GET", "/v1/tenants"),
        ("DELETE", "/v1/tenants"),  # which takes no DELETE
        ("GET", "/v1/tenants/globex/keys"),
        ("POST", "/v1/fail/http"),  # of the engine, and not named in the scopes
        ("GET", "/v1/adapters/math"),
    ]:
        assert (await operator.http.request(method, path, headers=key)).status_code == 403, path


async def test_of_the_console_what_is_no_file_does_not_exist(operator: Operator) -> None:
    key = bearer(await operator.new_key("acme"))
    assert (await operator.http.get("/console/js/main.js", headers=key)).status_code == 200
    for headers in (key, bearer(ADMIN_KEY)):
        response = await operator.http.get("/console/js/none.js", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


async def test_without_keys_it_is_said_in_the_same_words(client: httpx.AsyncClient) -> None:
    for path, meant in UNKNOWN:
        response = await client.get(f"http://localhost{path}")
        assert response.status_code == 404
        assert nearest(response.json()["error"]) == meant, path


async def test_nothing_is_redirected_to_where_the_caller_says(client: httpx.AsyncClient) -> None:
    """Not by the Host header, and not by what a proxy is told."""
    there = {"host": "localhost:1", "x-forwarded-host": "evil.example"}
    for path in ("/v1/batches/", "/v1/chat/completions/", "/health/", "/v1/files/", "//evil.example/", "/docs/"):
        for method in ("GET", "POST"):
            response = await client.request(method, f"http://localhost{path}", headers=there)
            assert (response.status_code, response.headers.get("location")) == (404, None), path


def test_official_clients_may_end_their_address_with_a_slash(base_url: str) -> None:
    for address in (f"{base_url}/v1", f"{base_url}/v1/"):
        with openai.OpenAI(base_url=address, api_key="unused") as client:
            answer = client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "hi"}])
            assert answer.choices[0].message.content == "base"
            assert BASE in [model.id for model in client.models.list()]


GUARDED = (*MODEL_ROUTES, *REFUSED_ROUTES, *OPERATOR_PATHS, "/v1/adapters", "/adapters", "/metrics")


@pytest.mark.parametrize("end", ["%0A", "%0d", "%00", "%7f"])
async def test_a_guarded_path_with_a_control_character_is_no_path(client: httpx.AsyncClient, end: str) -> None:
    """The router of Starlette would take a line break at the end for none."""
    for path in GUARDED:
        for method in ("GET", "POST", "OPTIONS"):
            response = await client.request(
                method, f"http://localhost{path}{end}", json={"model": BASE, "messages": []}
            )
            assert response.status_code == 404 and "control characters" in response.json()["error"]["message"], path


async def test_no_key_gets_around_its_quota_by_a_line_break(operator: Operator) -> None:
    key = bearer((await operator.make_key("default", "infer", requests_per_minute=1))["key"])
    body = {"model": BASE, "messages": [{"role": "user", "content": "hi"}]}
    statuses = [
        (await operator.http.post(f"http://localhost{CHAT}{end}", json=body, headers=key)).status_code
        for end in ("", "", "%0A")
    ]
    assert statuses == [200, 429, 403]
