"""langchain-openai's ChatOpenAI, over /v1/chat/completions."""

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
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool("get_weather", args_schema=Weather)
def get_weather(city: str, unit: str) -> str:
    """Get the weather of a city."""
    return f"{WEATHER_RESULT} in {city}, measured in {unit}"


def model_of(world: World, model: str, tokens: int = TOKENS, **more: Any) -> ChatOpenAI:
    options: Any = {"temperature": 0, "max_completion_tokens": tokens, "max_retries": 0, "api_key": world.key} | more
    return ChatOpenAI(base_url=f"{world.url}/v1", model=model, **options)


def chat(world: World) -> None:
    answer = model_of(world, world.model).invoke(QUESTION)
    assert answer.content == world.base_answer
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == TOKENS


def stream(world: World) -> None:
    chunks = list(model_of(world, world.model, stream_usage=True).stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == world.base_answer
    assert TOKENS in {chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata}


def tools(world: World) -> None:
    messages: list[Any] = [HumanMessage(WEATHER_QUESTION)]
    caller = model_of(world, world.model, CALL_TOKENS).bind_tools([get_weather], tool_choice="required")
    messages.append(caller.invoke(messages))
    (call,) = messages[-1].tool_calls
    check_weather(call["name"], call["args"])
    messages.append(get_weather.invoke(call))
    assert isinstance(messages[-1], ToolMessage)
    assert model_of(world, world.model).bind_tools([get_weather]).invoke(messages).content


def structured_output(world: World) -> None:
    model = model_of(world, world.model, CALL_TOKENS).with_structured_output(City, method="json_schema")
    assert isinstance(model.invoke(CITY_QUESTION), City)


def adapter_by_model(world: World) -> None:
    answer = model_of(world, world.adapter).invoke(QUESTION)
    assert answer.content == world.adapted_answer
    assert answer.response_metadata["model_name"] == f"{world.adapter}@1"


def adapter_by_field(world: World) -> None:
    answer = model_of(world, world.model, extra_body={"adapter": world.adapter}).invoke(QUESTION)
    assert answer.content == world.adapted_answer


def errors(world: World) -> None:
    absent, wrong = model_of(world, "no-such-model"), model_of(world, world.model, top_p=-1)
    check_raises(openai.NotFoundError, 404, "'no-such-model'", lambda: absent.invoke(QUESTION))
    check_raises(openai.BadRequestError, 400, "top_p", lambda: wrong.invoke(QUESTION))
    stranger = model_of(world, world.model, api_key="wrong")
    check_raises(openai.AuthenticationError, 401, "API key", lambda: stranger.invoke(QUESTION))


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field,
            "models": "It lists no models.", "errors": errors,
        }
    )  # fmt: skip
