"""Refuses requests with tools where the model has no format for them, and tools that only Anthropic's service has.

Design decision: here, for all APIs that have tools, and not by the engine: its answers differ by route, and one of them
is plain text where a call was required.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest, quoted

MESSAGES_PATH = "/v1/messages"
# Types of tools that Anthropic's clients send with a schema, like those without a type.
_OF_CLIENTS = (None, "custom")


def check_tools(payload: Mapping[str, object], why_no_tools: str | None) -> None:
    """BadRequest when `payload` wants tools used and `why_no_tools` says why they cannot be."""
    choice = payload.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if why_no_tools is not None and payload.get("tools") and kind != "none":
        raise BadRequest(f"tools cannot be used. {why_no_tools}", param="tools", code="tools_not_supported")


def check_hosted_tools(payload: Mapping[str, object], path: str) -> None:
    """BadRequest for a tool of /v1/messages without a schema of the client: web_search_20250305, bash_20250124, ..."""
    tools = payload.get("tools") if path == MESSAGES_PATH else None
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, Mapping) and "input_schema" not in tool and tool.get("type") not in _OF_CLIENTS:
            raise BadRequest(
                f"tools[{index}] is {quoted(tool['type'])}, a tool that Anthropic's service runs or knows by itself, "
                "and this server does not. Leave it out, or declare a tool of your own with an input_schema.",
                param=f"tools[{index}].type",
                code="tools_not_supported",
            )
