"""What is wrong with a body is told while the request waits, as its route tells it when nobody is before it.

The routes have vLLM's own requests and error handlers, and do what vLLM's do before they ask the engine for tokens.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

from adapters.factors.factors import Factors
from server.core.settings import Settings
from server.engine.error_handlers import add_engine_error_handlers
from server.engine.request_check import check_request
from tests.server.inference.test_responses import official
from tests.server.support.fake_engine import BASE, FakeEngine

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
USER = [{"role": "user", "content": "one"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER},
    COMPLETIONS: {"prompt": "one"},
    RESPONSES: {"input": "one", "store": False},
    MESSAGES: {"messages": USER, "max_tokens": 5},
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FAULTS: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"temperature": "hot"}, "temperature"),
    (CHAT, {"temperature": 3}, "temperature"),
    (CHAT, {"top_p": -1}, "top_p"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{"content": "no role"}]}, "messages[0].role"),
    (CHAT, {"max_tokens": -1}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 0, "max_tokens": 5}, "max_tokens"),
    (CHAT, {"n": "two"}, "n"),
    (CHAT, {"stop": [""]}, None),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"tools": []}, "tools"),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    (CHAT, {"tools": ["f"], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tools[0]"),
    (COMPLETIONS, {"temperature": "hot"}, "temperature"),
    (COMPLETIONS, {"max_tokens": -1}, "max_tokens"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (RESPONSES, {"temperature": "hot"}, "temperature"),
    (RESPONSES, {"max_output_tokens": -1}, "max_tokens"),
    (RESPONSES, {"input": [*USER, "two"]}, "input[1]"),
    (MESSAGES, {"temperature": "hot"}, None),
    (MESSAGES, {"messages": "hi"}, None),
    (MESSAGES, {"max_tokens": None}, None),
]


class ReadingEngine(FakeEngine):
    """Reads requests as vLLM does. `hold` holds those that are right; `told` are the paths of those checked before."""

    def __init__(self, factors: Factors) -> None:
        super().__init__(factors)
        self.told: list[str] = []
        self.ran: list[str] = []

    def mount(self, app: FastAPI) -> None:
        app.state.args = Namespace(log_error_stack=False)
        app.add_api_route(CHAT, self._read_chat, methods=["POST"])
        app.add_api_route(COMPLETIONS, self._read_completion, methods=["POST"])
        app.add_api_route(RESPONSES, self._read_response, methods=["POST"])
        app.add_api_route(MESSAGES, self._read_message, methods=["POST"])
        init_exception_handler(app)
        add_engine_error_handlers(app)

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        self.told.append(path)
        check_request(path, payload, self.max_model_len, as_chat=True)

    async def _read_chat(self, request: ChatCompletionRequest, http: Request) -> Response:
        limits = (vars(request)[field] for field in ("max_completion_tokens", "max_tokens"))
        request.to_sampling_params(min([100, *(limit for limit in limits if limit is not None)]), {"temperature": 0.5})
        return await self._run(http)

    async def _read_completion(self, request: CompletionRequest, http: Request) -> Response:
        request.to_sampling_params(min(100, 100 if request.max_tokens is None else request.max_tokens), {})
        return await self._run(http)

    async def _read_response(self, request: ResponsesRequest, http: Request) -> Response:
        request.to_sampling_params(100)
        return await self._run(http)

    async def _read_message(self, request: AnthropicMessagesRequest, http: Request) -> Response:
        return await self._run(http)

    async def _run(self, http: Request) -> Response:
        self.ran.append(http.url.path)
        if self.hold is not None:
            await self.hold.wait()
        return JSONResponse({"choices": []})


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_running_requests": 1, "max_queued_requests": 3})


@pytest.fixture
def engine(factors: Factors) -> ReadingEngine:
    return ReadingEngine(factors)


@pytest.fixture
async def held(client: httpx.AsyncClient, engine: ReadingEngine) -> AsyncIterator[None]:
    """A request is in the engine until `engine.hold` is set."""
    engine.hold = asyncio.Event()
    task = asyncio.create_task(client.post(CHAT, json=BODIES[CHAT]))
    await until(engine, 1)
    yield
    engine.hold.set()
    assert (await task).status_code == 200


async def until(engine: ReadingEngine, ran: int) -> None:
    async with asyncio.timeout(5):
        while len(engine.ran) < ran:
            await asyncio.sleep(0)


async def answer(client: httpx.AsyncClient, path: str, fields: dict[str, Any]) -> tuple[int, Any]:
    body = {"model": BASE, **BODIES[path], **fields}
    async with asyncio.timeout(5):
        response = await client.post(path, json=body)
    told = response.json()
    told.pop("request_id", None)
    return response.status_code, told


@pytest.mark.parametrize(("path", "fields", "param"), FAULTS)
async def test_what_is_wrong_with_one_that_waits_is_told_at_once_and_as_by_its_route(
    client: httpx.AsyncClient,
    engine: ReadingEngine,
    path: str,
    fields: dict[str, Any],
    param: str | None,
) -> None:
    of_the_route = await answer(client, path, fields)
    assert (of_the_route[0], engine.told, engine.ran) == (400, [], [])
    assert of_the_route[1]["error"].get("param") == param
    engine.hold = asyncio.Event()
    first = asyncio.create_task(client.post(CHAT, json=BODIES[CHAT]))
    await until(engine, 1)
    assert await answer(client, path, fields) == of_the_route
    assert (engine.told, engine.ran) == ([path], [CHAT])
    engine.hold.set()
    assert (await first).status_code == 200
    assert await answer(client, COMPLETIONS, {}) == (200, {"choices": []})  # whose place was free
    assert engine.told == [path]


async def test_official_clients_raise_it(client: httpx.AsyncClient, app: FastAPI, held: None) -> None:
    hot: Any = "hot"
    messages: Any = USER
    with pytest.raises(openai.BadRequestError, match="temperature") as refused:
        await official(client).chat.completions.create(model=BASE, messages=messages, temperature=hot)
    assert refused.value.param == "temperature"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as http:
        claude = anthropic.AsyncAnthropic(base_url="http://localhost", api_key="unused", http_client=http)
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await claude.messages.create(model=BASE, max_tokens=5, messages=messages, extra_body={"temperature": hot})


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((path, {}) for path in BODIES),
        (CHAT, {"max_tokens": 1_000_000}),
        (CHAT, {"max_tokens": -1, "max_completion_tokens": 5}),
        (CHAT, {"n": None, "stop": None, "tools": [TOOL], "tool_choice": "required"}),
        (
            CHAT,  # of which vLLM's parsers of calls leave one
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}, "tools": [TOOL]},
        ),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 20_000}]}]}),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": None}),
        (COMPLETIONS, {"max_tokens": 0, "echo": True}),
        (RESPONSES, {"input": USER, "max_output_tokens": 1_000_000}),
    ],
)
async def test_what_is_right_waits(
    client: httpx.AsyncClient, engine: ReadingEngine, held: None, path: str, fields: dict[str, Any]
) -> None:
    body = {"model": BASE, **BODIES[path], **fields}
    waiting = asyncio.create_task(client.post(path, json=body))
    async with asyncio.timeout(5):
        while not engine.told:
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
