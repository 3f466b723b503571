"""llama-index's OpenAILike."""

from __future__ import annotations

from typing import Any

import openai
from features import (
    CALL_TOKENS,
    CITY_QUESTION,
    QUESTION,
    TOKENS,
    WEATHER_QUESTION,
    WEATHER_RESULT,
    City,
    Weather,
    World,
    check_raises,
    check_weather,
    run,
)  # fmt: skip
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

MESSAGES = [ChatMessage(role="user", content=QUESTION)]


def get_weather(city: str, unit: str) -> str:
    """Get the weather of a city."""
    return f"{WEATHER_RESULT} in {city}, measured in {unit}"


TOOL = FunctionTool.from_defaults(get_weather, name="get_weather", fn_schema=Weather)


def model_of(world: World, model: str, tokens: int = TOKENS, key: str | None = None, **body: Any) -> OpenAILike:
    return OpenAILike(
        model=model, api_base=f"{world.url}/v1", api_key=key or world.key, is_chat_model=True,
        is_function_calling_model=True, temperature=0, max_tokens=tokens, max_retries=0,
        additional_kwargs={"extra_body": body} if body else {},
    )  # fmt: skip


def chat(world: World) -> None:
    assert model_of(world, world.model).chat(MESSAGES).message.content == world.base_answer


def stream(world: World) -> None:
    pieces = model_of(world, world.model).stream_chat(MESSAGES)
    assert "".join(piece.delta or "" for piece in pieces) == world.base_answer


def tools(world: World) -> None:
    messages = [ChatMessage(role="user", content=WEATHER_QUESTION)]
    caller = model_of(world, world.model, CALL_TOKENS)
    first = caller.chat_with_tools([TOOL], chat_history=messages, tool_required=True)
    (call,) = caller.get_tool_calls_from_response(first)
    check_weather(call.tool_name, call.tool_kwargs)
    result = ChatMessage(
        role="tool", content=str(TOOL(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}
    )
    last = model_of(world, world.model).chat_with_tools([TOOL], chat_history=[*messages, first.message, result])
    assert last.message.content


def structured_output(world: World) -> None:
    model = model_of(world, world.model, CALL_TOKENS).as_structured_llm(City)
    assert isinstance(model.chat([ChatMessage(role="user", content=CITY_QUESTION)]).raw, City)


def adapter_by_model(world: World) -> None:
    assert model_of(world, world.adapter).chat(MESSAGES).message.content == world.adapted_answer


def adapter_by_field(world: World) -> None:
    answer = model_of(world, world.model, adapter=world.adapter).chat(MESSAGES)
    assert answer.message.content == world.adapted_answer


def errors(world: World) -> None:
    absent, wrong = model_of(world, "no-such-model"), model_of(world, world.model, top_p=-1)
    check_raises(openai.NotFoundError, 404, "'no-such-model'", lambda: absent.chat(MESSAGES))
    check_raises(openai.BadRequestError, 400, "top_p", lambda: wrong.chat(MESSAGES))
    stranger = model_of(world, world.model, key="wrong")
    check_raises(openai.AuthenticationError, 401, "API key", lambda: stranger.chat(MESSAGES))


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field,
            "models": "It lists no models.", "errors": errors,
        }
    )  # fmt: skip
