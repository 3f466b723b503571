"""Every error leaves in OpenAI's shape, whoever raised it."""

import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.api.app import create_app
from server.api.bodies.json_body import MAX_FAULTS
from server.api.own_route import MAX_PARAMETERS
from server.core.error_responses import MAX_READ_ERRORS, error_response, validation_error
from server.core.errors import quoted
from server.core.settings import Settings
from server.db.database import Database
from server.registry.store import Registry
from server.registry.versions import Page
from tests.server.conftest import client_of
from tests.server.support.fake_engine import FakeEngine


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param", "code"),
    [
        ("GET", "/nowhere", None, 404, None, "not_found"),
        ("PUT", "/adapters", {}, 405, None, "method_not_allowed"),
        ("PATCH", "/adapters/acme/math", {}, 400, "public", "missing_required_parameter"),
        ("PUT", "/adapters/acme/math", {}, 405, None, "method_not_allowed"),
        ("GET", "/v1/chat/completions", None, 405, None, "method_not_allowed"),
        ("POST", "/v1/fail/http", {}, 409, None, "conflict"),
        ("POST", "/v1/fail/value", {}, 400, None, "invalid_request"),
        ("POST", "/v1/fail/sentence", {}, 415, None, "unsupported_media_type"),
        ("POST", "/v1/fail/unsupported", {}, 400, None, "not_supported"),
        ("POST", "/v1/fail/unexpected", {}, 500, None, "internal_error"),
        ("POST", "/v1/chat/completions", {}, 400, "messages", "missing_required_parameter"),
        ("POST", "/v1/chat/completions", {"messages": [1]}, 400, "messages[0]", "invalid_value"),
        ("POST", "/v1/chat/completions", {"messages": [], "stop": 5}, 400, "stop", "invalid_value"),
        ("POST", "/v1/chat/completions", [], 400, None, "invalid_value"),
    ],
)
async def test_error_has_openais_shape(
    client: httpx.AsyncClient, method: str, path: str, body: object, status: int, param: str | None, code: str
) -> None:
    response = await client.request(method, path, json=body)
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["message"]
    assert response.headers["x-request-id"]


async def test_invalid_json_is_reported_on_the_engines_routes_too(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, None)
    assert "not valid JSON" in error["message"]


async def test_internal_error_does_not_tell_what_happened(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/fail/unexpected", json={})
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


async def test_headers_of_an_http_exception_are_kept(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/fail/http", json={})).headers["retry-after"] == "1"


async def test_long_input_is_quoted_in_short(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": "x" * 10_000})
    assert response.status_code == 400
    assert len(response.text) < 500


def test_what_is_not_shown_is_not_escaped() -> None:
    text = "\0" * 10_000_000
    tracemalloc.start()
    try:
        shown = quoted(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shown == "'" + ("\\x00" * 20)[:79] + "..."
    assert peak < 100_000


@pytest.mark.parametrize("length", [0, 78, 79, 80, 81, 1000])
def test_a_short_text_is_quoted_whole(length: int) -> None:
    whole = repr("x" * length)
    assert quoted("x" * length) == (whole if len(whole) <= 80 else f"{whole[:80]}...")


def test_of_many_faults_the_first_are_looked_at() -> None:
    fault = {"type": "int_type", "loc": ("body", "n"), "msg": "Input should be a valid integer", "input": "x"}
    unread: Any = object()
    error = validation_error([fault] * MAX_READ_ERRORS + [unread])
    assert (error.message, error.param) == ("n: Input should be a valid integer, got 'x'", "n")


def test_a_long_name_is_told_in_short() -> None:
    key = "k" * 10_000
    fault = {"type": "extra_forbidden", "loc": ("body", key), "msg": "Extra inputs are not permitted", "input": 1}
    error = validation_error([fault])
    assert error.param == f"{'k' * 80}..." and key not in error.message


async def test_of_a_list_the_first_fault_is_told(client: httpx.AsyncClient) -> None:
    body = {"name": "a", "url": "https://example.com", "event_types": [5, 6, 7]}
    error = (await client.post("/v1/webhook_endpoints", json=body)).json()["error"]
    assert error["param"] == "event_types[0]" and "event_types[1]" not in error["message"]


async def test_so_many_unknown_fields_are_counted_and_not_told(client: httpx.AsyncClient) -> None:
    for path in ("/v1/fine_tuning/jobs", "/v1/batches"):
        response = await client.post(path, json={f"k{number}": 0 for number in range(MAX_FAULTS + 1)})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "too_many_faults")


async def test_a_query_without_number_is_refused(client: httpx.AsyncClient) -> None:
    """FastAPI's time for unknown parameters is quadratic."""
    for number, code in ((MAX_PARAMETERS, "unknown_parameter"), (MAX_PARAMETERS + 1, "too_many_parameters")):
        response = await client.get("/v1/adapters", params=[(f"k{n}", "") for n in range(number)])
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_defect_in_our_own_route_is_a_500_even_where_the_engine_takes_it_for_a_bad_request(
    settings: Settings, engine: FakeEngine, app_database: Database
) -> None:
    class Broken(Registry):
        def list(self, *_: Any, **__: Any) -> Page:
            raise ValueError("a defect")

    app = create_app(settings, engine, app_database)
    gateway = app.state.gateway
    app.state.gateway = replace(gateway, registry=Broken(app_database, gateway.reads))
    async with client_of(app) as client:
        response = await client.get("/adapters")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "defect" not in response.text


async def test_engines_own_handler_may_say_that_an_exception_is_the_clients_fault(
    settings: Settings, app_database: Database, engine: FakeEngine
) -> None:
    class Engine(FakeEngine):
        def mount(self, app: FastAPI) -> None:
            super().mount(app)

            @app.exception_handler(Exception)
            async def handle(_request: object, error: Exception) -> httpx.Response:
                status = 400 if isinstance(error, KeyError) else 500
                return error_response(status, "the engine says so", param=None, code="engine")  # type: ignore[return-value]

    async with client_of(create_app(settings, Engine(engine.factors), app_database)) as client:
        response = await client.post("/v1/fail/unexpected", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "engine")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/adapters/a/aliases/prod"),
        ("PATCH", "/adapters/a"),
        ("DELETE", "/adapters/a"),
        ("POST", "/adapters/a/restore"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_our_own_route_is_read_up_to_a_megabyte(
    client: httpx.AsyncClient, method: str, path: str, chunked: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1025):
            yield b" " * 1024

    content = chunks() if chunked else b" " * 1025 * 1024
    response = await client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((path, body) for path in ("/v1/batches", "/v1/fine_tuning/jobs") for body in (None, 5, [])),
        ("/v1/fine_tuning/alpha/graders/run", None),
        ("/v1/uploads", "x"),
        ("/v1/webhook_endpoints", []),
    ],
)
async def test_a_body_that_is_no_object_is_told_so_in_words_of_json(
    client: httpx.AsyncClient, path: str, body: object
) -> None:
    response = await client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, None)
    assert error["message"].startswith("body: expected a JSON object, got ")
