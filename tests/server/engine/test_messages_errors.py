"""Errors of vLLM's own route for /v1/messages, which has an answer of its own for every exception."""

from __future__ import annotations

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
        raise KeyError("a secret of the engine")


class MessagesEngine(FakeEngine):
    def mount(self, app: FastAPI) -> None:
        app.state.args = Namespace(log_error_stack=False)
        app.state.anthropic_serving_messages = Messages()
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
