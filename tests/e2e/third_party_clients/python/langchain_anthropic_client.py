"""langchain-anthropic's ChatAnthropic, over /v1/messages."""

from __future__ import annotations

from typing import Any

import anthropic
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
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool


@tool("get_weather", args_schema=Weather)
def get_weather(city: str, unit: str) -> str:
    """Get the weather of a city."""
    return f"{WEATHER_RESULT} in {city}, measured in {unit}"


def model_of(world: World, model: str, tokens: int = TOKENS, **more: Any) -> ChatAnthropic:
    options: Any = {"temperature": 0, "max_tokens": tokens, "max_retries": 0, "api_key": world.key} | more
    return ChatAnthropic(base_url=world.url, model=model, **options)


def chat(world: World) -> None:
    answer = model_of(world, world.model).invoke(QUESTION)
    assert answer.content == world.base_answer
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == TOKENS


def stream(world: World) -> None:
    chunks = list(model_of(world, world.model).stream(QUESTION))
    assert "".join(chunk.text for chunk in chunks) == world.base_answer


def tools(world: World) -> None:
    messages: list[Any] = [HumanMessage(WEATHER_QUESTION)]
    caller = model_of(world, world.model, CALL_TOKENS).bind_tools([get_weather], tool_choice="any")
    messages.append(caller.invoke(messages))
    (call,) = messages[-1].tool_calls
    check_weather(call["name"], call["args"])
    messages.append(get_weather.invoke(call))
    assert model_of(world, world.model).bind_tools([get_weather]).invoke(messages).text


def structured_output(world: World) -> None:
    model = model_of(world, world.model, CALL_TOKENS).with_structured_output(City, method="json_schema")
    assert isinstance(model.invoke(CITY_QUESTION), City)


def adapter_by_model(world: World) -> None:
    answer = model_of(world, world.adapter).invoke(QUESTION)
    assert answer.content == world.adapted_answer
    assert answer.response_metadata["model_name"] == f"{world.adapter}@1"


def adapter_by_field(world: World) -> None:
    named = {"extra_body": {"adapter": world.adapter}}
    assert model_of(world, world.model, model_kwargs=named).invoke(QUESTION).content == world.adapted_answer


def errors(world: World) -> None:
    absent, wrong = model_of(world, "no-such-model"), model_of(world, world.model, top_p=-1)
    check_raises(anthropic.NotFoundError, 404, "'no-such-model'", lambda: absent.invoke(QUESTION))
    check_raises(anthropic.BadRequestError, 400, "top_p", lambda: wrong.invoke(QUESTION))
    stranger = model_of(world, world.model, api_key="wrong")
    check_raises(anthropic.AuthenticationError, 401, "API key", lambda: stranger.invoke(QUESTION))


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field,
            "models": "It lists no models.", "errors": errors,
        }
    )  # fmt: skip
