"""Where the model's way to write tool calls is not known, requests with tools are told what the operator can do."""

from __future__ import annotations

import anthropic
import httpx
import openai
import pytest

from tests.server.support.fake_engine import FakeEngine

WHY = "No format is known. Start the server with --tool-call-parser NAME."
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("choice", [{}, {"tool_choice": "required"}, {"tool_choice": {"type": "any"}}])
def test_tools_without_a_known_format_are_refused(
    openai_client: openai.OpenAI, engine: FakeEngine, choice: dict[str, object]
) -> None:
    engine.why_no_tools = WHY
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser NAME") as caught:
        openai_client.chat.completions.create(model="", messages=[], extra_body={"tools": TOOLS, **choice})
    assert (caught.value.param, caught.value.code) == ("tools", "tools_not_supported")


@pytest.mark.parametrize(
    "body", [{"tools": TOOLS, "tool_choice": "none"}, {"tools": TOOLS, "tool_choice": {"type": "none"}}, {"tools": []}]
)
async def test_tools_that_are_not_to_be_used_are_let_through(
    client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, object]
) -> None:
    engine.why_no_tools = WHY
    assert (await client.post("/v1/chat/completions", json={"messages": [], **body})).status_code == 200


async def test_tools_with_a_known_format_are_let_through(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/chat/completions", json={"messages": [], "tools": TOOLS})).status_code == 200


@pytest.mark.parametrize("kind", ["web_search_20250305", "bash_20250124", "code_execution_20250522"])
def test_a_tool_that_only_anthropics_service_has_is_refused_by_its_name(base_url: str, kind: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key="unused", max_retries=0)
    own = {"name": "f", "input_schema": {"type": "object"}}
    message = {"model": "base-alias", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(anthropic.BadRequestError, match=rf"tools\[1\] is '{kind}'.*input_schema"):
        client.messages.create(**message, extra_body={"tools": [own, {"type": kind, "name": "x"}]})
    for tools in ([own], [{"type": "custom", **own}], [own | {"type": "later_kind"}]):
        assert client.messages.create(**message, extra_body={"tools": tools}).content
