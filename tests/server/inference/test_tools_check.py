"""Where the model's way to write tool calls is not known, requests with tools are told what the operator can do.

What the engine would pass over of tools is refused.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import anthropic
import httpx
import openai
import pytest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.parser.abstract_parser import DelegatingParser

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


@pytest.mark.parametrize("kind", ["document", "search_result"])
def test_a_result_of_a_tool_that_the_model_would_not_be_shown_is_refused_by_its_place(base_url: str, kind: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key="unused", max_retries=0)
    text = {"type": "text", "text": "of 3 pages"}
    result = {"type": "tool_result", "tool_use_id": "toolu_1"}
    for content, refused in (("of 3 pages", False), ([text], False), ([text, {"type": kind, "source": {}}], True)):
        messages: Any = [{"role": "user", "content": [text, {**result, "content": content}]}]
        if refused:
            with pytest.raises(
                anthropic.BadRequestError, match=rf"messages\[0\]\.content\[1\]\.content\[1\].*'{kind}'"
            ):
                client.messages.create(model="base-alias", max_tokens=5, messages=messages)
        else:
            assert client.messages.create(model="base-alias", max_tokens=5, messages=messages).content


def test_mcp_servers_that_anthropics_service_would_ask_are_refused(base_url: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key="unused", max_retries=0)
    message: Any = {"model": "base-alias", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(anthropic.BadRequestError, match="in your program"):
        client.beta.messages.create(**message, mcp_servers=[{"type": "url", "url": "https://x.example", "name": "x"}])
    assert client.beta.messages.create(**message, mcp_servers=[]).content


FUNCTION: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


@pytest.mark.parametrize(
    ("choice", "advice"),
    [
        ({"type": "auto"}, 'a string here: "auto"'),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}, "and no others"),
        ({"type": "web_search_preview"}, "name a function"),
        ({"type": "mcp", "server_label": "x"}, "name a function"),
    ],
)
def test_choices_of_tools_that_the_engine_passes_over_are_refused(
    openai_client: openai.OpenAI, engine: FakeEngine, choice: Any, advice: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=advice) as caught:
        openai_client.responses.create(model="", input="x", tools=[FUNCTION], tool_choice=choice)
    assert (caught.value.param, caught.value.code) == ("tool_choice", "unsupported_parameter")
    assert engine.asked == []


def test_so_are_they_in_chats(openai_client: openai.OpenAI) -> None:
    allowed: Any = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}}
    with pytest.raises(openai.BadRequestError, match="and no others"):
        openai_client.chat.completions.create(model="", messages=[], tools=TOOLS, tool_choice=allowed)


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "f"}])
def test_other_choices_are_let_through(openai_client: openai.OpenAI, choice: Any) -> None:
    assert openai_client.responses.create(model="", input="x", tools=[FUNCTION], tool_choice=choice).id


def test_vllm_still_passes_over_them() -> None:
    assert "ToolChoiceAllowed" not in inspect.getsource(DelegatingParser), (
        "vLLM has come to read calls of allowed tools: see server/inference/tools_check.py"
    )


def test_vllm_still_shows_the_model_no_other_results() -> None:
    read = inspect.getsource(AnthropicServingMessages._convert_user_tool_result)
    kinds = set(re.findall(r'item_type == "(\w+)"', read))
    assert kinds == {"text", "image", "tool_reference"}, "vLLM shows others: see server/inference/tools_check.py"
