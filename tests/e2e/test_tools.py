"""Tools, as the official client uses them, on a server that was started without a flag about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.talking import Talk

pytestmark = pytest.mark.engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
PARIS = {"role": "user", "content": "What is the weather in Paris?"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps({"city": "Paris", "unit": "celsius"})},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"}
# With one example before it, even a model of this size calls the function by itself.
BERLIN = [
    PARIS, CALLED, RESULT, {"role": "assistant", "content": "It is sunny in Paris, 21 degrees."},
    {"role": "user", "content": "What is the weather in Berlin?"},
]  # fmt: skip


def request(talk: Talk, messages: list[dict[str, Any]], choice: object) -> dict[str, Any]:
    return {
        "model": talk.base, "messages": messages, "tools": [WEATHER], "tool_choice": choice, "temperature": 0,
        "max_tokens": 60,
    }  # fmt: skip


def assert_weather_is_called(name: str | None, arguments: str) -> None:
    assert name == "get_weather"
    called = json.loads(arguments)
    assert called.keys() == {"city", "unit"}
    assert called["unit"] in ("celsius", "fahrenheit")


@pytest.mark.parametrize(
    ("choice", "finish_reason"), [("auto", "tool_calls"), ("required", "tool_calls"), (NAMED, "stop")]
)
def test_a_tool_is_called(talk: Talk, choice: object, finish_reason: str) -> None:
    answer = talk.client.chat.completions.create(**request(talk, BERLIN, choice))
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert_weather_is_called(call.function.name, call.function.arguments)
    assert answer.choices[0].finish_reason == finish_reason
    assert not answer.choices[0].message.content


@pytest.mark.parametrize("choice", ["auto", "required", NAMED])
def test_a_call_is_streamed_piece_by_piece(talk: Talk, choice: object) -> None:
    names, arguments, texts = [], [], []
    for chunk in talk.client.chat.completions.create(**request(talk, BERLIN, choice), stream=True):
        for part in chunk.choices:
            texts.append(part.delta.content or "")
            for call in part.delta.tool_calls or ():
                assert call.index == 0 and call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments.append(call.function.arguments or "")
    assert len(names) == 1
    assert_weather_is_called(names[0], "".join(arguments))
    assert len([piece for piece in arguments if piece]) > 1
    assert "".join(texts).strip() == ""


def test_the_result_of_a_call_is_answered_in_words(talk: Talk) -> None:
    answer = talk.client.chat.completions.create(**request(talk, [PARIS, CALLED, RESULT], "auto"))
    assert not answer.choices[0].message.tool_calls
    assert "21" in (answer.choices[0].message.content or "")


def test_no_tool_is_called_when_none_may_be(talk: Talk) -> None:
    answer = talk.client.chat.completions.create(**request(talk, [PARIS], "none"))
    assert not answer.choices[0].message.tool_calls
    assert answer.choices[0].message.content
