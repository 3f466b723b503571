"""Refuses requests with tools where the model has no format for them.

Design decision: here, for all APIs that have tools, and not by the engine: its answers differ by route, and one of them
is plain text where a call was required.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.core.errors import BadRequest


def check_tools(payload: Mapping[str, object], why_no_tools: str | None) -> None:
    """BadRequest when `payload` wants tools used and `why_no_tools` says why they cannot be."""
    choice = payload.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if why_no_tools is not None and payload.get("tools") and kind != "none":
        raise BadRequest(f"tools cannot be used. {why_no_tools}", param="tools", code="tools_not_supported")
