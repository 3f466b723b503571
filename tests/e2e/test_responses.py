"""The Responses API as the official client uses it: calls of functions, cut-off answers, conversations."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import openai
import pytest

from tests.e2e.running import ADMIN_KEY, ServerProcess
from tests.e2e.second_gateway import second_gateway
from tests.e2e.talking import QUESTION, Talk

pytestmark = pytest.mark.engine

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}


@pytest.fixture(scope="module")
def other(server: ServerProcess) -> Iterator[openai.OpenAI]:
    """The client of another gateway on the same database."""
    with (
        second_gateway(server) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=ADMIN_KEY, max_retries=0, timeout=120) as client,
    ):
        yield client


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_required_function_is_called(talk: Talk, choice: object) -> None:
    answer = talk.client.responses.create(
        model=talk.base, input="What is the weather in Paris?", tools=[WEATHER], tool_choice=choice,  # type: ignore[list-item, arg-type]
        temperature=0, max_output_tokens=60,
    )  # fmt: skip
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments).keys() == {"city"}
    assert answer.output_text.strip() == ""


def test_a_required_function_is_called_in_a_stream(talk: Talk) -> None:
    stream = talk.client.responses.create(
        model=talk.base, input="What is the weather in Paris?", tools=[WEATHER], tool_choice="required",  # type: ignore[list-item]
        temperature=0, max_output_tokens=60, stream=True,
    )  # fmt: skip
    events = list(stream)
    pieces = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(pieces).keys() == {"city"} and json.loads(done.arguments) == json.loads(pieces)
    assert events[-1].type == "response.completed"
    assert [item.type for item in events[-1].response.output] == ["function_call"]


def test_an_answer_that_was_cut_off_is_incomplete(talk: Talk) -> None:
    request = {"model": talk.base, "input": QUESTION, "max_output_tokens": 3, "temperature": 0}
    answer = talk.client.responses.create(**request)  # type: ignore[call-overload]
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    *_, last = talk.client.responses.create(**request, stream=True)  # type: ignore[call-overload]
    assert last.type == "response.incomplete"
    assert (last.response.status, last.response.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_an_answer_that_ended_by_itself_is_complete(talk: Talk) -> None:
    request = {"model": talk.base, "input": QUESTION, "max_output_tokens": 200, "temperature": 0}
    assert talk.client.responses.create(**request).status == "completed"  # type: ignore[call-overload]
    *_, last = talk.client.responses.create(**request, stream=True)  # type: ignore[call-overload]
    assert last.type == "response.completed"


def test_a_conversation_goes_on_as_if_all_of_it_had_been_sent(talk: Talk, other: openai.OpenAI) -> None:
    """Ten turns on two gateways in turn, most with an adapter, against a client that keeps the conversation itself."""
    talk.upload("responses/turns", 0.3)
    ask: Any = {"model": talk.base, "temperature": 0, "max_output_tokens": 16, "instructions": "Be brief."}
    kept: list[Any] = []
    previous: Any = openai.omit
    for turn in range(10):
        adapter = {"extra_body": {"adapter": "responses/turns"}} if turn % 3 else {}
        question = {"role": "user", "content": f"Name the country number {turn}."}
        gateway = (talk.client, other)[turn % 2]
        answer = gateway.responses.create(input=[question], previous_response_id=previous, **ask, **adapter)
        whole = talk.client.responses.create(input=[*kept, question], store=False, **ask, **adapter)
        assert answer.output_text == whole.output_text
        assert answer.usage is not None and whole.usage is not None
        assert answer.usage.input_tokens == whole.usage.input_tokens
        asked = len(kept) + 1
        kept += [question, *({"role": "assistant", "content": answer.output_text} for _ in answer.output)]
        previous = answer.id
    items = list(talk.client.responses.input_items.list(previous, order="asc"))
    assert len(items) == asked


def test_a_call_and_its_output_are_gone_on_from(talk: Talk) -> None:
    ask: Any = {"model": talk.base, "tools": [WEATHER], "temperature": 0, "max_output_tokens": 60}
    first = talk.client.responses.create(input="What is the weather in Paris?", tool_choice="required", **ask)
    (call,) = [item for item in first.output if item.type == "function_call"]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    answer = talk.client.responses.create(input=[output], previous_response_id=first.id, tool_choice="none", **ask)
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}, call.model_dump(exclude={"id"}), output]
    whole = talk.client.responses.create(input=asked, tool_choice="none", **ask)
    assert answer.output_text == whole.output_text
    by_reference: Any = [asked[0], {"type": "item_reference", "id": call.id}, output]
    referred = talk.client.responses.create(input=by_reference, tool_choice="none", **ask)
    assert referred.output_text == whole.output_text


def test_a_stream_in_the_background_is_taken_up_on_another_gateway(talk: Talk, other: openai.OpenAI) -> None:
    ask: Any = {"model": talk.base, "input": QUESTION, "temperature": 0, "max_output_tokens": 12, "stream": True}
    plain: list[Any] = list(talk.client.responses.create(**ask))
    events: list[Any] = []
    with talk.client.responses.create(**ask, background=True) as stream:
        for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
    response_id = events[0].response.id
    events += other.responses.retrieve(response_id, stream=True, starting_after=events[-1].sequence_number)
    assert [event.sequence_number for event in events] == [*range(len(events))]
    # How many tokens are in a delta is the engine's to say.
    kinds, plain_kinds = ([kind for kind, _ in groupby(event.type for event in each)] for each in (events, plain))
    assert kinds == ["response.created", "response.queued", *plain_kinds[1:]]
    assert events[-1].response.output_text == plain[-1].response.output_text
    assert list(talk.client.responses.retrieve(response_id, stream=True)) == events


def test_background_responses_run_and_are_cancelled(talk: Talk) -> None:
    ask: Any = {"model": talk.base, "background": True, "temperature": 0}
    long = talk.client.responses.create(**ask, input="Write a long story about the sea.", max_output_tokens=900)
    assert talk.client.responses.cancel(long.id).status == "cancelled"
    short = talk.client.responses.create(**ask, input=QUESTION, max_output_tokens=3)
    assert {long.status, short.status} == {"queued"}
    while (short := talk.client.responses.retrieve(short.id)).status in ("queued", "in_progress"):
        time.sleep(0.1)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert short.usage.output_tokens == 3
    assert talk.client.responses.retrieve(long.id).status == "cancelled"
    for body in ({"top_p": "much"}, {"input": [{"role": "judge", "content": QUESTION}]}):
        with pytest.raises(openai.BadRequestError) as caught:
            talk.client.responses.create(**ask, input=QUESTION, extra_body=body)
        assert (caught.value.param or "").startswith(next(iter(body)))
    wrong = talk.client.responses.create(**ask, input="word " * 20_000)  # found out when it is made tokens
    while (wrong := talk.client.responses.retrieve(wrong.id)).status in ("queued", "in_progress"):
        time.sleep(0.1)
    assert (wrong.status, wrong.error.code) == ("failed", "context_length_exceeded") and wrong.error.message
