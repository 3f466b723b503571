"""Requests that the engine cannot carry, compile or read are 400s that name the field, and the engine goes on."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e.talking import Talk, user

pytestmark = pytest.mark.engine

LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
MANY = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5000)}}
TOOL = {"name": "f", "strict": True, "parameters": {"type": "array", "items": [1]}}
SCHEMAS: list[Any] = [
    {"type": "array", "items": [{"type": "string"}]},
    {"type": "string", "pattern": "^\\p{L}+$"},
    {"type": "integer", "minimum": 1.5},
    {"$ref": "#/nowhere"},
    LOOP,
    {"type": "string", "minLength": 2**31},
    {"type": "array", "minItems": 2**40, "items": {"type": "string"}},
    {"type": "number", "multipleOf": 3},
    MANY,
]


def ask(talk: Talk, stream: bool = False, **extra: Any) -> Any:
    answer = talk.client.chat.completions.create(
        model=talk.base, messages=user("Hi"), max_tokens=4, stream=stream, extra_body=extra
    )
    return list(answer) if stream else answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_a_schema_that_cannot_be_compiled_is_refused(talk: Talk, schema: Any, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(talk, stream, response_format=form)
    assert (caught.value.param, caught.value.code) == ("response_format.json_schema.schema", "invalid_grammar")


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"structured_outputs": "json"}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "nonsense"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["\ud800"]}, "stop[0]"),
        ({"bad_words": ["\udfff"]}, "bad_words[0]"),
        ({"tools": [{"type": "function", "function": TOOL}]}, "tools[0].function.parameters"),
    ],
)
def test_what_cannot_be_carried_or_read_is_refused(talk: Talk, extra: dict[str, Any], param: str) -> None:
    body = {"model": talk.base, "messages": user("Hi"), "max_tokens": 4, **extra}
    response = talk.http.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param and error["message"] and isinstance(error["code"], str)


def test_schemas_of_both_kinds_are_taken_in_any_order(talk: Talk) -> None:
    for _ in range(2):
        with pytest.raises(openai.BadRequestError, match="uniqueItems"):
            ask(talk, structured_outputs={"json": {"type": "array", "uniqueItems": True}})
        answer = talk.client.chat.completions.create(
            model=talk.base, messages=user("Yes or no?"), extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
        )
        assert answer.choices[0].message.content in ("yes", "no")
