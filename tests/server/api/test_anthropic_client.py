"""The official clients beside each other, each with its own header for the key and its own shape of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from anthropic.types import ErrorResponse
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from server.api.app import create_app
from server.api.error_handlers import install_error_handlers
from server.api.middleware.anthropic_errors import AnthropicErrors
from server.api.middleware.unhandled_errors import UnhandledErrors
from server.core.settings import Settings
from server.db.database import Database
from server.observability.metrics import GatewayMetrics
from server.observability.observe import Observe
from tests.server.conftest import client_of
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import Operator, with_admin_key

MESSAGE: dict[str, Any] = {"model": BASE, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
Connect = Callable[..., anthropic.AsyncAnthropic]


@pytest.fixture
def keyed_app(settings: Settings, engine: FakeEngine, app_database: Database) -> FastAPI:
    return create_app(with_admin_key(settings, max_request_bytes=5000), engine, app_database)


@pytest.fixture
async def connect(keyed_app: FastAPI) -> AsyncIterator[Connect]:
    """Makes clients of the keyed app, whose only credentials are the arguments."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(keyed_app)) as http:

        def make(**credentials: str) -> anthropic.AsyncAnthropic:
            unset: dict[str, Any] = {"api_key": None, "auth_token": None}
            return anthropic.AsyncAnthropic(
                base_url="http://localhost", http_client=http, max_retries=0, **{**unset, **credentials}
            )

        yield make


def checked(error: anthropic.APIStatusError, status: int, kind: str) -> None:
    assert error.status_code == status
    assert isinstance(error.body, dict)
    parsed = ErrorResponse.model_validate(error.body, strict=True)
    assert (parsed.type, parsed.error.type) == ("error", kind)
    assert parsed.error.message
    assert parsed.request_id == error.request_id is not None


async def test_errors_have_anthropics_shape_whoever_they_are_from(
    connect: Connect, operator: Operator, engine: FakeEngine
) -> None:
    key = await operator.new_key("acme", "infer")
    client = connect(api_key=key)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        await connect(api_key="wrong").messages.create(**MESSAGE)
    checked(caught.value, 401, "authentication_error")
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        await connect(api_key=await operator.new_key("globex", "adapters")).messages.create(**MESSAGE)
    checked(denied.value, 403, "permission_error")
    for wrong in ({"extra_body": {"adapter": "none"}}, {"model": "none"}):
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(**{**MESSAGE, **wrong})
        checked(missing.value, 404, "not_found_error")
    for field in ({"adapter": 7}, {"lora_path": "x"}, {"priority": -1}):
        with pytest.raises(anthropic.BadRequestError) as bad:
            await client.messages.create(**MESSAGE, extra_body=field)
        checked(bad.value, 400, "invalid_request_error")
    with pytest.raises(anthropic.APIStatusError) as long:
        await client.messages.create(**{**MESSAGE, "messages": [{"role": "user", "content": "x" * 6000}]})
    # Of Anthropic's documentation; their client's types do not have it.
    assert (long.value.status_code, long.value.body["error"]["type"]) == (413, "request_too_large")  # type: ignore[index]
    with pytest.raises(anthropic.APIStatusError) as encoded:
        await client.messages.create(**MESSAGE, extra_headers={"content-encoding": "gzip"})
    checked(encoded.value, 415, "invalid_request_error")
    with pytest.raises(anthropic.InternalServerError) as broken:
        await client.messages.create(**MESSAGE, extra_body={"fail": "unexpected"})
    checked(broken.value, 500, "api_error")
    with pytest.raises(anthropic.BadRequestError) as engines:
        await client.messages.create(**MESSAGE, extra_body={"fail": "own"})
    checked(engines.value, 400, "invalid_request_error")
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: This model's maximum .* 128 tokens"):
        await client.messages.create(**MESSAGE, extra_body={"fail": "long"})


async def test_a_full_quota_has_anthropics_shape_and_its_headers(connect: Connect, operator: Operator) -> None:
    await operator.make_tenant("acme", requests_per_minute=1)
    client = connect(auth_token=(await operator.make_key("acme"))["key"])
    answer = await client.messages.create(**MESSAGE)
    assert (answer.content[0].type, answer._request_id is not None) == ("text", True)
    with pytest.raises(anthropic.RateLimitError) as caught:
        await client.messages.create(**MESSAGE)
    checked(caught.value, 429, "rate_limit_error")
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_everything_else_has_openais_shape(keyed_app: FastAPI, operator: Operator) -> None:
    key = await operator.new_key("acme", "infer")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(keyed_app)) as http:
        url = "http://localhost/v1"
        azures = openai.AsyncAzureOpenAI(base_url=url, api_version="v1", api_key=key, http_client=http, max_retries=0)
        assert (await azures.models.list()).data[0].id == BASE
        client = openai.AsyncOpenAI(base_url=url, api_key=key, http_client=http, max_retries=0)
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="none", messages=MESSAGE["messages"])
        assert (caught.value.code, caught.value.param, caught.value.type) == (
            "model_not_found",
            "model",
            "invalid_request_error",
        )


async def test_an_open_server_refuses_pages_in_anthropics_shape(client: httpx.AsyncClient, app: FastAPI) -> None:
    async with client_of(app) as http:
        response = await http.post("/v1/messages", json=MESSAGE, headers={"origin": "http://evil.example"})
    assert response.status_code == 403
    assert ErrorResponse.model_validate(response.json(), strict=True).error.type == "permission_error"


async def test_an_error_that_a_defect_cuts_short_is_a_whole_500() -> None:
    async def cut_short(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"error": ', "more_body": True})
        raise KeyError("a defect")

    handled = UnhandledErrors(cut_short, handle=install_error_handlers(FastAPI()))
    app = Observe(AnthropicErrors(handled), seconds=GatewayMetrics().http_seconds)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.post("/v1/messages")
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")
