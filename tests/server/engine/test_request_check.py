"""What is wrong with a background response is told at once, as the same request is told in the foreground.

The route has vLLM's own request and error handlers, and does what vLLM's does before it asks the engine for tokens.
"""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.error_responses import MAX_READ_ERRORS
from server.core.errors import BadRequest
from server.core.first_fault import first_fault_reader
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSES
from server.engine.error_handlers import add_engine_error_handlers
from server.engine.request_check import check_request
from server.inference.responses.input_items import with_whole_texts
from tests.server.conftest import client_of
from tests.server.inference.test_responses import ended, official
from tests.server.support import batch_kit
from tests.server.support.batch_kit import line, make_batch
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.served import served

VECTOR = {"vector": [1.0] * 13}


class ReadingEngine(FakeEngine):
    """Reads requests as vLLM does, and then answers as ever."""

    def mount(self, app: FastAPI) -> None:
        app.state.args = Namespace(log_error_stack=False)
        app.add_api_route("/v1/responses", self._read, methods=["POST"])
        init_exception_handler(app)
        add_engine_error_handlers(app)

    def check_request(self, path: str, payload: Mapping[str, Any]) -> None:
        check_request(path, payload, self.max_model_len, as_chat=True)

    async def _read(self, request: ResponsesRequest, http: Request) -> Response:
        construct_input_messages(request_instructions=request.instructions, request_input=request.input)
        request.to_sampling_params(self.max_model_len)
        return await self._respond(request, http)


@pytest.fixture
async def http(settings: Settings, factors: Factors, app_database: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(settings, ReadingEngine(factors), app_database)) as client:
        yield client


USER = {"role": "user", "content": "one"}
SCHEMA = {"type": "json_schema", "name": "x", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"role": "judge", "content": "one"}]}, "input[0].role"),
        ({"input": [USER, {"role": "user", "content": 5}]}, "input[1].content"),
        ({"input": [USER, "two"]}, "input[1]"),
        ({"input": [{"type": "message", "role": "assistant", "content": []}]}, "input"),
        ({"instructions": ["a", "b"]}, "instructions"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {f"{n}": "v" for n in range(17)}}, "metadata"),
        ({"model": 5}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"include": ["everything"]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
        ({"tools": 5}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"text": {"format": SCHEMA}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
@pytest.mark.parametrize("adapter", [{}, {"adapter": VECTOR}], ids=["base", "adapter"])
async def test_what_is_wrong_is_told_as_in_the_foreground(
    http: httpx.AsyncClient, app_database: Database, fields: dict[str, Any], param: str, adapter: dict[str, Any]
) -> None:
    answers = []
    for background in (False, True):
        body = {"model": BASE, "input": "one", **adapter, **fields, "background": background}
        answer = await http.post("/v1/responses", json=body)
        answers.append((answer.status_code, answer.json()))
    assert answers[0] == answers[1]
    status, told = answers[1]
    assert (status, told["error"]["param"]) == (400, param) and told["error"]["message"]
    with app_database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(RESPONSES)).scalar() == 0


def _own(*parts: dict[str, str], **fields: str) -> dict[str, Any]:
    return {**fields, "role": "assistant", "content": list(parts)}


OWN: list[tuple[dict[str, Any], str]] = [
    (_own({"type": "output_text", "text": "one"}), "one"),  # as the AI SDK sends it
    (_own({"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}), "one\ntwo"),
    (_own({"type": "refusal", "refusal": "no"}, type="message", id="msg_1", status="completed"), "no"),
]


def test_messages_of_the_model_are_read_in_any_form(
    settings: Settings, factors: Factors, app_database: Database
) -> None:
    app = create_app(settings, ReadingEngine(factors), app_database)
    with served(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        bodies: list[Any] = [{"model": BASE, "input": [USER, item, USER]} for item, _ in OWN]
        lines = [line(str(number), url="/v1/responses", **body) for number, body in enumerate(bodies)]
        batch = make_batch(client, lines, "/v1/responses")
        for body in bodies:
            assert client.responses.create(**body).status == "completed"
        done = batch_kit.ended(client, batch)
        assert (done.status, done.request_counts and done.request_counts.failed) == ("completed", 0), done.errors
    for item, text in OWN:
        read = ResponsesRequest.model_validate({"input": with_whole_texts([USER, item])}).input
        assert construct_input_messages(request_input=read)[-1] == {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
         "Unsupported input item type: web_search_call"),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
         "Encrypted content is not supported"),
    ],
)  # fmt: skip
def test_what_vllm_refuses_of_an_item_is_told_in_its_words(item: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=f"^{told}") as caught:
        check_request("/v1/responses", {"input": [USER, item]}, 128, as_chat=True)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": [0] * 10_000}, "input[0]"),
        ({"input": [USER] + [{}] * 9_999}, "input[1]"),
        ({"input": [{"role": "user", "content": [{}] * 10_000}]}, "input[0].content[0]"),
        ({"input": "one", "tools": [{"type": "mcp"}] * 1000}, "tools[0]"),
    ],
    ids=["numbers", "objects", "parts", "tools"],
)
async def test_of_many_faults_the_first_is_told(http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    """Each of the first three has hundreds of thousands."""
    for background in (False, True):
        answer = await http.post("/v1/responses", json={**body, "background": background})
        error = answer.json()["error"]
        places = {place.partition(":")[0] for place in error["message"].split("; ")}
        assert answer.status_code == 400 and error["param"].startswith(param)
        assert all(place.startswith(param) for place in places if place.startswith(("input", "tools"))), error


@pytest.mark.parametrize(
    "body",
    [
        {"input": [0] * 100},
        {"input": [USER] + [{}] * 100},
        {"input": [{"role": "user", "content": [{}] * 100}]},
        {"input": "one", "tools": [{}] * 100},
        {"input": "one", "metadata": {f"k{n}": n for n in range(1000)}},
    ],
)
def test_a_value_has_fewer_faults_than_are_read(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        first_fault_reader(TypeAdapter(ResponsesRequest)).validate_python(body)
    assert caught.value.error_count() < MAX_READ_ERRORS / 2


@pytest.mark.parametrize("model", [ResponsesRequest, ChatCompletionRequest])
def test_what_has_no_fault_is_read_as_ever(model: type[BaseModel]) -> None:
    parts = [{"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "data:,x", "detail": "low"}]
    said = [USER, {"role": "user", "content": parts, "type": "message"}, {"role": "assistant", "content": "three"}]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    body = {
        "input": [*said, call, {"type": "function_call_output", "call_id": "c", "output": "four"}],
        "messages": said,
        "tools": [{"type": "function", "name": "f", "parameters": {}, "function": {"name": "f"}}],
        "metadata": {"k": "v"},
        "logit_bias": {"1": 2},
        "stop": ["a", "b"],
    }
    read = first_fault_reader(TypeAdapter(model)).validate_python(copy.deepcopy(body))
    whole = model.model_validate(copy.deepcopy(body))
    assert _without_iterators(read) == _without_iterators(whole)


def _without_iterators(request: BaseModel) -> str:
    return re.sub(r"request_id='[^']*'|ValidatorIterator\(.*?\)|0x[0-9a-f]+", "", repr(request))


async def test_the_official_client_learns_what_it_may_include(http: httpx.AsyncClient) -> None:
    for background in (False, True):
        include: Any = ["everything"]
        with pytest.raises(openai.BadRequestError, match=r"'message\.output_text\.logprobs'.* got 'everything'"):
            await official(http).responses.create(model=BASE, input="one", include=include, background=background)


async def test_what_is_right_runs(http: httpx.AsyncClient) -> None:
    client = official(http)
    tool: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
    first = await client.responses.create(
        model=BASE, input="Rain?", tools=[tool], tool_choice="required", background=True, include=[]
    )
    [call] = (await ended(client, first.id)).output
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}
    for stream in (False, True):
        fields: Any = {"background": True, "stream": stream, "metadata": {"k": "a\nb"}, "instructions": "Go."}
        fields |= {"previous_response_id": first.id, "tools": [tool]}
        answer = await client.responses.create(model=BASE, input=[output], **fields)
        response_id = [event async for event in answer][-1].response.id if stream else answer.id
        done = await ended(client, response_id)
        assert (done.status, done.output_text) == ("completed", "base after 3 items")
        assert done.metadata == {"k": "a\nb"} and done.tool_choice == "auto"


@pytest.mark.parametrize("model", [None, "", "base-alias", ...])
async def test_the_model_is_named_as_in_the_foreground(http: httpx.AsyncClient, model: object) -> None:
    asked = {"input": "one"} if model is ... else {"input": "one", "model": model}
    named = [(await http.post("/v1/responses", json=asked)).json()["model"]]
    queued = (await http.post("/v1/responses", json={**asked, "background": True})).json()
    named += [queued["model"], (await ended(official(http), queued["id"])).model]
    assert named == [BASE] * 3
