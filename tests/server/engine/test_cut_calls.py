"""Calls that were cut off in the middle of their arguments, by vLLM's own converter for /v1/messages."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse

from server.engine.cut_calls import keep_cut_calls

WHOLE, CUT = '{"city": "Rome"}', '{"city": "Ro'


def answer(*arguments: str, **reason: Any) -> Any:
    calls = [
        {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": text}}
        for number, text in enumerate(arguments)
    ]
    choice = {"index": 0, "message": {"role": "assistant", "content": "", "tool_calls": calls}, **reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    serving: Any = AnthropicServingMessages.__new__(AnthropicServingMessages)
    keep_cut_calls(serving)
    return serving.messages_full_converter(ChatCompletionResponse(model="m", choices=[choice], usage=usage))


@pytest.mark.parametrize("arguments", [CUT, "", "12"])
def test_a_call_that_the_limit_cut_off_has_no_arguments(arguments: str) -> None:
    message = answer(WHOLE, arguments, finish_reason="length")
    assert [block.input for block in message.content] == [{"city": "Rome"}, {}]
    assert message.stop_reason == "max_tokens"


def test_a_call_that_a_stop_text_cut_off_is_not_said_to_be_whole() -> None:
    message = answer(CUT, finish_reason="stop", stop_reason="me")
    assert (message.content[0].input, message.stop_reason, message.stop_sequence) == ({}, "stop_sequence", "me")


def test_whole_calls_are_as_they_were() -> None:
    message = answer(WHOLE, finish_reason="stop", stop_reason="me")
    assert (message.content[0].input, message.stop_reason) == ({"city": "Rome"}, "tool_use")
    with pytest.raises(ValueError, match="Unterminated"):  # no limit made it so
        answer(CUT, finish_reason="tool_calls")


def test_vllms_route_asks_the_converter_that_is_replaced() -> None:
    assert "self.messages_full_converter(" in inspect.getsource(AnthropicServingMessages.create_messages), (
        "vLLM makes whole answers of /v1/messages elsewhere: see server/engine/cut_calls.py"
    )
