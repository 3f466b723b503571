"""The Responses API as the official client uses it: calls of functions, cut-off answers, and what is not stored."""

from __future__ import annotations

import json

import openai
import pytest

from tests.e2e.talking import QUESTION, Talk

pytestmark = pytest.mark.engine

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}


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


def test_going_on_from_a_stored_response_is_refused_in_a_sentence(talk: Talk) -> None:
    first = talk.client.responses.create(model=talk.base, input=QUESTION, max_output_tokens=3)
    with pytest.raises(openai.BadRequestError, match=r"not stored here.* Send the earlier messages") as caught:
        talk.client.responses.create(model=talk.base, input="And of Spain?", previous_response_id=first.id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
    with pytest.raises(openai.NotFoundError):
        talk.client.responses.retrieve(first.id)
