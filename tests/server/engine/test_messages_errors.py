"""Errors of vLLM's own route for /v1/messages, which has an answer of its own for every exception."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
from fastapi import FastAPI, Request
from vllm.entrypoints.anthropic.api_router import attach_router
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from adapters.factors.factors import Factors
from server.engine.error_handlers import add_engine_error_handlers, engine_died, keep_errors_of_messages
from server.engine.message_streams import keep_streamed_errors
from server.engine.output_watch import GivenBack
from tests.server.support.fake_engine import BASE, FakeEngine


class Messages(AnthropicServingMessages):
    """On an engine that has died, where the message is "dead", and has parameters "checked" that vLLM refuses."""

    def __init__(self) -> None:
        self._merge_inline_system = False

    async def create_chat_completion(self, request: Any, raw_request: Request | None = None) -> Any:
        if request.messages[0]["content"] == "dead":
            raise EngineDeadError
        if request.messages[0]["content"] == "checked":
            try:
                SamplingParams(trace_decode_token_ids=[])._validate_trace_replay(None, None)  # type: ignore[arg-type]
            except ValueError as error:
                raise EngineGenerateError from error
        if request.messages[0]["content"] in ("cut", "never begun"):
            return self._broken_off(begun=request.messages[0]["content"] == "cut")
        raise KeyError("a secret of the engine")

    async def _broken_off(self, *, begun: bool) -> AsyncIterator[str]:
        """As vLLM's stream of a chat ends in an error."""
        deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, {"content": "one"}] if begun else []
        for delta in deltas:
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            chunk = {"id": "chatcmpl-1", "created": 1, "model": BASE, "object": "chat.completion.chunk"}
            yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
        yield f"data: {self.create_streaming_error_response(GivenBack())}\n\n"
        yield "data: [DONE]\n\n"


class MessagesEngine(FakeEngine):
    def mount(self, app: FastAPI) -> None:
        app.state.args = Namespace(log_error_stack=False)
        app.state.anthropic_serving_messages = Messages()
        keep_streamed_errors(app.state.anthropic_serving_messages)
        keep_errors_of_messages(app.state.anthropic_serving_messages)
        attach_router(app)
        init_exception_handler(app)
        add_engine_error_handlers(app)


@pytest.fixture
def engine(factors: Factors) -> MessagesEngine:
    return MessagesEngine(factors)


@pytest.fixture
async def claude(app: FastAPI) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        yield anthropic.AsyncAnthropic(base_url="http://localhost", api_key="unused", http_client=http, max_retries=0)


async def refused(claude: anthropic.AsyncAnthropic, text: str) -> tuple[int, Any]:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await claude.messages.create(model=BASE, max_tokens=5, messages=[{"role": "user", "content": text}])
    assert isinstance(caught.value.body, dict)
    # Whoever tries again at once finds the same server.
    told = caught.value.response.headers.get("retry-after")
    assert told == ("5" if caught.value.status_code == 503 else None)
    return caught.value.status_code, caught.value.body["error"]


async def test_that_the_engine_has_died_is_told_as_by_chat_completions(claude: anthropic.AsyncAnthropic) -> None:
    assert await refused(claude, "dead") == (503, {"type": "api_error", "message": engine_died().message})


async def test_what_vllm_checks_and_hides_is_a_bad_request_that_says_what(claude: anthropic.AsyncAnthropic) -> None:
    message = "trace_decode_token_ids must be a non-empty list."
    assert await refused(claude, "checked") == (400, {"type": "invalid_request_error", "message": message})


async def test_a_defect_is_500_still(claude: anthropic.AsyncAnthropic) -> None:
    assert (await refused(claude, "one"))[0] == 500


async def test_a_stream_ends_with_the_error_that_broke_it_off(claude: anthropic.AsyncAnthropic) -> None:
    for text, begins in (("cut", ["message_start", "content_block_start", "content_block_delta"]), ("never begun", [])):
        events = []
        asked: Any = {"model": BASE, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for event in await claude.messages.create(**asked, stream=True):
                events.append(event.type)
        assert events == begins
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["error"] == {"type": "api_error", "message": str(GivenBack())}
        assert caught.value.body["request_id"] == caught.value.response.headers["request-id"]


def test_vllms_route_asks_the_converter_that_is_replaced() -> None:
    assert "self.message_stream_converter(" in inspect.getsource(AnthropicServingMessages.create_messages), (
        "vLLM makes streams of /v1/messages elsewhere: see server/engine/message_streams.py"
    )
