"""Tokens as messages, by vLLM's own parsers, with the embedded model's tokenizer and no engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vllm.config import ModelConfig, VllmConfig
from vllm.renderers import renderer_from_config
from vllm.renderers.online_derenderer import OnlineDerenderer

from server.engine.messages import message_of
from server.launch.embedded_model import ensure_embedded_model

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 17, "b": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig(model=str(ensure_embedded_model()), dtype="float32", max_model_len=512)


async def said(
    config: ModelConfig,
    text: str,
    tools: list[dict[str, Any]],
    parser: str | None,
    reasoning_parser: str | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    renderer = renderer_from_config(VllmConfig(model_config=config))
    derenderer = OnlineDerenderer(
        config,
        renderer,
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
        enable_auto_tools=parser is not None,
        tool_parser=parser,
        reasoning_parser=reasoning_parser,
    )
    return await message_of(derenderer, renderer.get_tokenizer().encode(text), tools, kwargs)


async def test_a_call_is_read_as_the_chat_route_would(config: ModelConfig) -> None:
    message = await said(config, f"Let me see.\n{CALL}", TOOLS, "hermes")
    assert (message["role"], message["content"]) == ("assistant", "Let me see.\n")
    [call] = message["tool_calls"]
    assert call["type"] == "function" and call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"]) == {"a": 17, "b": 2}


@pytest.mark.parametrize(
    ("text", "tools", "parser"), [("It is 34.", TOOLS, "hermes"), (CALL, [], "hermes"), (CALL, TOOLS, None)]
)
async def test_without_a_call_a_tool_or_a_parser_it_is_a_text(
    config: ModelConfig, text: str, tools: list[dict[str, Any]], parser: str | None
) -> None:
    assert await said(config, text, tools, parser) == {"role": "assistant", "content": text}


async def test_what_the_model_thought_is_no_part_of_its_answer(config: ModelConfig) -> None:
    text = "<think>\nIs it 33? No.\n</think>\n\n34"
    message = await said(config, text, [], None, "qwen3")
    assert (message["reasoning"].strip(), message["content"].strip()) == ("Is it 33? No.", "34")


@pytest.mark.parametrize(("thinks", "content"), [(True, None), (False, "34")])
async def test_whether_it_thinks_is_what_its_prompt_said(
    config: ModelConfig, thinks: bool, content: str | None
) -> None:
    message = await said(config, "34", [], None, "qwen3", enable_thinking=thinks)
    assert message.get("content") == content
