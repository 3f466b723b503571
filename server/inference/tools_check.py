"""Refuses requests with tools where the model has no format for them, and what else of tools the engine would ignore:
tools that only Anthropic's service has, choices among tools, and results that are neither text nor image.

Design decision: here, for all APIs that have tools, and not by the engine: its answers differ by route, and one of them
is plain text where a call was required.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from server.core.errors import BadRequest, quoted
from server.core.paths import RESPONSES_PATH

MESSAGES_PATH = "/v1/messages"
# Types of tools that Anthropic's clients send with a schema, like those without a type.
_OF_CLIENTS = (None, "custom")
# Of /v1/responses: those by which one tool is named. The engine passes over all others.
_CHOICES = ("function", "custom")
# What the engine reads of the results of tools in /v1/messages.
_RESULTS = ("text", "image", "tool_reference")


def check_tools(payload: Mapping[str, object], why_no_tools: str | None) -> None:
    """BadRequest when `payload` wants tools used and `why_no_tools` says why they cannot be."""
    choice = payload.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if why_no_tools is not None and payload.get("tools") and kind != "none":
        raise BadRequest(f"tools cannot be used. {why_no_tools}", param="tools", code="tools_not_supported")


def check_choice(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for a choice among some of the tools, or of a tool that a provider runs itself."""
    choice = payload.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind == "allowed_tools":
        why = 'which is not known here: send the tools that may be called, and no others, with "auto" or "required"'
    elif path == RESPONSES_PATH and kind is not None and kind not in _CHOICES:
        why = "a tool that no model here can call: name a function of `tools`"
        if kind in ("auto", "none", "required"):
            why = f'a string here: "{kind}"'
    else:
        return
    raise BadRequest(f"tool_choice.type is {quoted(kind)}, {why}.", param="tool_choice", code="unsupported_parameter")


def check_hosted_tools(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for what only Anthropic's service runs: a tool of /v1/messages without a schema of the client
    (web_search_20250305, bash_20250124, ...), or of an MCP server."""
    if path == MESSAGES_PATH and payload.get("mcp_servers"):
        raise BadRequest(
            "mcp_servers: this server calls no tools by itself. Connect to the MCP servers in your program, and "
            "declare their tools in `tools`.",
            param="mcp_servers",
            code="tools_not_supported",
        )
    tools = payload.get("tools") if path == MESSAGES_PATH else None
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, Mapping) and "input_schema" not in tool and tool.get("type") not in _OF_CLIENTS:
            raise BadRequest(
                f"tools[{index}] is {quoted(tool['type'])}, a tool that Anthropic's service runs or knows by itself, "
                "and this server does not. Leave it out, or declare a tool of your own with an input_schema.",
                param=f"tools[{index}].type",
                code="tools_not_supported",
            )


def check_results(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for a part of a tool's result in /v1/messages that the model would not be shown: `document`, ..."""
    if path != MESSAGES_PATH:
        return
    for place, result in _parts(payload.get("messages"), "messages"):
        if result.get("type") != "tool_result":
            continue
        for at, part in _items(result.get("content"), f"{place}.content"):
            kind = part.get("type")
            if kind not in _RESULTS:
                raise BadRequest(
                    f"{at}.type is {quoted(kind)}, expected one of {', '.join(_RESULTS)}: send the text of it.",
                    param=f"{at}.type",
                    code="invalid_value",
                )


def _parts(messages: object, name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The parts of all messages, each with its place."""
    for place, message in _items(messages, name):
        yield from _items(message.get("content"), f"{place}.content")


def _items(value: object, name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The objects in a list, each with its place."""
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, Mapping):
            yield f"{name}[{index}]", item
