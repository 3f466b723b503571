"""Requests that vLLM trips over while it reads them are refused, and its other defects stay defects."""

from argparse import Namespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from server.api.error_handlers import install_error_handlers
from server.api.middleware.unhandled_errors import UnhandledErrors
from server.engine.error_handlers import add_engine_error_handlers
from server.observability.metrics import GatewayMetrics
from server.observability.observe import Observe

pytestmark = pytest.mark.engine


async def answer(path: str, body: Any = None) -> httpx.Response:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.utils import construct_chat_messages_with_tool_call
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.exceptions import EngineGenerateError

    app = FastAPI()
    app.state.args = Namespace(log_error_stack=False)

    @app.post("/read")
    async def read(request: Request) -> None:
        construct_chat_messages_with_tool_call(ResponsesRequest(**await request.json()).input)

    @app.post("/chat")
    async def chat(request: ChatCompletionRequest) -> None:
        raise AssertionError("not a request that can be read")

    @app.post("/checked")
    async def checked() -> None:
        try:
            SamplingParams(trace_decode_token_ids=[])._validate_trace_replay(None, None)
        except ValueError as error:
            raise EngineGenerateError() from error

    @app.post("/defect")
    async def defect() -> None:
        raise KeyError("a secret")

    init_exception_handler(app)
    add_engine_error_handlers(app)
    app.add_middleware(UnhandledErrors, handle=install_error_handlers(app))
    app.add_middleware(Observe, seconds=GatewayMetrics().http_seconds)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://engine") as client:
        return await client.post(path, json=body)


async def test_a_message_without_content_is_a_bad_request() -> None:
    message = {"id": "1", "type": "message", "role": "assistant", "status": "completed", "content": []}
    response = await answer("/read", {"input": [message]})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "missing or empty" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("message", "param", "told"),
    [
        ({"role": "user", "content": None}, "messages[0].content", "valid string, got None"),
        ({"role": "assistant", "content": 5}, "messages[0].content", "valid string, got 5"),
        ({"content": "x"}, "messages[0].role", "Field required"),
        ("x", "messages[0]", "valid dictionary"),
    ],
)
async def test_fault_in_a_message_is_told_of_the_kind_of_message_that_it_is(
    message: object, param: str, told: str
) -> None:
    response = await answer("/chat", {"messages": [message]})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    sentences = error["message"].split("; ")
    assert sentences[0].startswith(f"{param}: ") and told in sentences[0]
    assert len(set(sentences)) == len(sentences)


async def test_what_vllm_checks_and_hides_is_a_bad_request_that_says_what() -> None:
    response = await answer("/checked")
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "trace_decode_token_ids must be a non-empty list."


async def test_a_defect_is_a_500_that_tells_nothing() -> None:
    response = await answer("/defect")
    assert response.status_code == 500
    assert "secret" not in response.text
