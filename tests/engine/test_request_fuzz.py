"""Whatever is in a body, vLLM's request models either take it or the answer is a 400 that names a field.

The models and the error handlers are vLLM's and the gateway's own; no engine runs.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.error_handlers import install_error_handlers
from server.api.middleware.engine_errors import EngineErrors
from server.api.middleware.unhandled_errors import UnhandledErrors
from server.core.first_fault import read_to_first_fault
from server.engine.error_handlers import add_engine_error_handlers
from server.observability.metrics import GatewayMetrics
from server.observability.observe import Observe

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": MESSAGES},
    "batch": {"model": "m", "messages": [MESSAGES]},
    "completion": {"model": "m", "prompt": "Hi"},
    "responses": {"model": "m", "input": "Hi"},
    "messages": {"model": "m", "messages": MESSAGES, "max_tokens": 5},
    "generate": {"model": "m", "token_ids": [1], "sampling_params": {}},
}


@cache
def models() -> dict[str, Any]:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest

    return {
        "chat": ChatCompletionRequest,
        "batch": BatchChatCompletionRequest,
        "completion": CompletionRequest,
        "responses": ResponsesRequest,
        "messages": AnthropicMessagesRequest,
        "generate": GenerateRequest,
    }


@cache
def app() -> FastAPI:
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

    app = FastAPI()
    app.state.args = Namespace(log_error_stack=False)
    for name, model in models().items():
        app.add_api_route(f"/{name}", _taker(model), methods=["POST"])
    read_to_first_fault(app)
    init_exception_handler(app)
    add_engine_error_handlers(app)
    app.add_middleware(EngineErrors)
    app.add_middleware(UnhandledErrors, handle=install_error_handlers(app))
    app.add_middleware(Observe, seconds=GatewayMetrics().http_seconds)
    return app


def _taker(model: Any) -> Callable[..., Any]:
    async def take(request: Any) -> str:
        return type(request).__name__

    take.__annotations__ = {"request": model, "return": str}
    return take


async def post(name: str, body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://engine") as client:
        return await client.post(f"/{name}", content=json.dumps(body), headers={"content-type": "application/json"})


LOOKED_INTO = (
    "structured_outputs", "tools", "tool_choice", "messages", "stream_options", "response_format", "input", "prompt",
    "logprobs", "system", "sampling_params", "features", "text", "prompt_embeds",
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["json", "auto", "required", "function"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "function", "name", "role", "content", "json", "json_schema", "schema", "tools", "0"]),
        inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", list(GOOD))
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
async def test_no_body_is_a_500(name: str, data: st.DataObject) -> None:
    known = sorted(models()[name].model_fields)
    # Every other time one that vLLM looks into before its type is checked.
    fields = st.sampled_from([field for field in LOOKED_INTO if field in known]) | st.sampled_from(known)
    odd = data.draw(st.dictionaries(fields, VALUES, min_size=1, max_size=3))
    response = await post(name, GOOD[name] | odd)
    assert response.status_code in (200, 400), (odd, response.text)
    if response.status_code == 400:
        error = response.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error" and isinstance(error["code"], str)


@pytest.mark.parametrize(
    ("name", "odd", "param"),
    [
        ("chat", {"structured_outputs": "json"}, "structured_outputs"),
        ("chat", {"tools": "all", "tool_choice": {"function": {"name": "f"}}}, "tools"),
        ("chat", {"tools": [{}], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools[0].function"),
        ("chat", {"response_format": "json"}, "response_format"),
        ("chat", {"messages": 5}, "messages"),
        ("chat", {"structured_outputs": {}}, "structured_outputs"),
        ("completion", {"structured_outputs": [1]}, "structured_outputs"),
        ("completion", {"stream_options": 5}, "stream_options"),
        ("responses", {"input": {"a": 1}}, "input"),
        ("messages", {"messages": "Hi"}, "messages"),
    ],
)
async def test_a_value_of_the_wrong_kind_is_refused_by_its_field(name: str, odd: dict[str, Any], param: str) -> None:
    response = await post(name, GOOD[name] | odd)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] is not None and error["param"].startswith(param), error
