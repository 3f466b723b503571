"""OpenAI's format of chat data, field by field: messages, tool calls, tools, and the older function calls.

    system, developer, user   content, name
    assistant                 content, name, refusal, tool_calls, function_call, weight (supervised: 0 is not trained)
    tool                      content, tool_call_id, name
    function                  content, name

Design decision: unknown fields are refused instead of ignored, because a misspelt "wieght" would change what is
learned. Contents are texts; images and audio are refused, because the base model reads none.

A field that is null or an empty list is as one that is absent, known or not: `datasets` writes every field of a file
into each of its objects, and answers of servers have fields that say nothing. `parameters` are taken as they are.

Chat templates expect a newer form: `to_template_message` writes functions as tools, arguments as the objects that their
JSON stands for, and a refusal as the content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from server.core.error_responses import field_of, plain_message
from server.core.errors import quoted

_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal")
# How chat templates call these roles.
_ROLES: Mapping[str, str] = MappingProxyType({"developer": "system", "function": "tool"})

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FormatError(Exception):
    """A row or message is not in the format: `what` was found, and what was `expected`, both for people."""

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"{what}; expected {expected}")
        self.what = what
        self.expected = expected


def _is_object(text: str) -> str:
    try:
        if isinstance(json.loads(text), dict):
            return text
    except (ValueError, RecursionError):
        pass
    raise ValueError("a JSON object, written as a text")


def without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object that are neither null nor an empty list."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, fields: Any) -> Any:
        return without_empty(fields) if isinstance(fields, dict) else fields


class FunctionCall(_Strict):
    """A call: the function, and its arguments as the JSON text of an object."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(_is_object)]


class ToolCall(_Strict):
    """One of the calls in an assistant message."""

    id: str = Field(min_length=1)
    type: Literal["function"]
    function: FunctionCall


class Function(_Strict):
    """A function that may be called; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A tool; functions are the only kind that chat templates can write."""

    type: Literal["function"]
    function: Function


class _Message(_Strict):
    role: str
    content: Any = None
    name: str | None = None


class AssistantMessage(_Message):
    """An answer, trained on unless its weight is 0. `audio` may be present only as null."""

    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    audio: None = None
    weight: Literal[0, 1] | None = None


class ToolMessage(_Message):
    """The result of a tool call."""

    tool_call_id: str = Field(min_length=1)


class FunctionMessage(_Message):
    """The result of a function call (the older form)."""

    name: str


MESSAGES: Mapping[str, type[_Message]] = MappingProxyType(
    {
        "system": _Message,
        "developer": _Message,
        "user": _Message,
        "assistant": AssistantMessage,
        "tool": ToolMessage,
        "function": FunctionMessage,
    }
)
_TOOLS = TypeAdapter(list[Tool])
_FUNCTIONS = TypeAdapter(list[Function])


def check_message(message: object, where: str) -> None:
    """Raises FormatError, naming the field under `where`, when `message` is not a message of the format."""
    if not isinstance(message, dict):
        raise FormatError(f"{where} is {quoted(message)}", "an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in MESSAGES:
        raise FormatError(f"{where}.role is {quoted(role)}", f"one of {', '.join(MESSAGES)}")
    _check(lambda: MESSAGES[role].model_validate(message), where, MESSAGES[role])
    content = message.get("content")
    if content in (None, []) and (role == "function" or any(message.get(name) for name in _INSTEAD_OF_CONTENT)):
        return
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    if not parts or not all(_is_text(part) for part in parts):
        raise FormatError(f"{where}.content is {quoted(content)}", "a text, or a list of text parts")


def tools_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools of a row without their empty fields, its functions rewritten as tools. Raises FormatError."""
    tools, functions = row.get("tools") or [], row.get("functions") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FormatError(f"tools is {quoted(tools)}", "a list of objects")
    _check(lambda: _TOOLS.validate_python(tools), "tools", Tool)
    _check(lambda: _FUNCTIONS.validate_python(functions), "functions", Function)
    written = [*tools, *({"type": "function", "function": function} for function in functions)]
    return [{**without_empty(tool), "function": without_empty(tool["function"])} for tool in written]


def is_trained(message: Mapping[str, Any]) -> bool:
    """Whether supervised training learns this message: an assistant's whose weight is not 0."""
    return bool(message["role"] == "assistant" and message.get("weight") != 0)


def calls_of(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The calls in a message, each with `name` and `arguments`."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [*calls, message["function_call"]] if message.get("function_call") else calls


def to_template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as chat templates take it: one text as content, developer as system, function as tool."""
    message = without_empty(message)
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] if part["type"] == "text" else part["refusal"] for part in content)
    known = {"role": _ROLES.get(message["role"], message["role"]), "content": content or message.get("refusal") or ""}
    known |= {name: message[name] for name in ("name", "tool_call_id") if name in message}
    ids = [call["id"] for call in message.get("tool_calls") or ()]
    calls = [
        {"type": "function", "function": {"name": call["name"], "arguments": json.loads(call["arguments"])}}
        for call in calls_of(message)
    ]
    for call, call_id in zip(calls, ids, strict=False):
        call["id"] = call_id
    return {**known, "tool_calls": calls} if calls else known


def _is_text(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
        return False
    return set(without_empty(part)) == {"type", part["type"]} and isinstance(part[part["type"]], str)


def _check(validate: Any, where: str, kind: type[BaseModel]) -> None:
    try:
        validate()
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        path = field_of(error) or ""
        field = where + (path if path.startswith("[") or not path else f".{path}")
        if error["type"] == "extra_forbidden":
            at_top = sum(isinstance(part, str) for part in error["loc"]) == 1
            known = f"only {', '.join(kind.model_fields)}" if at_top else "the fields of OpenAI's format"
            raise FormatError(f"{field} is not known there", known) from None
        if error["type"] == "missing":
            raise FormatError(f"it has no {field}", "it, as in OpenAI's format") from None
        expected = plain_message(error).removeprefix("Input should be ")
        raise FormatError(f"{field} is {quoted(error['input'])}", expected) from None
