"""litellm, with its provider hosted_vllm."""

from __future__ import annotations

import os
from typing import Any

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
    closed,
    run,
)  # fmt: skip

# What would be fetched from the internet at the import.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "Get the weather of a city",
        "parameters": closed(Weather.model_json_schema()),
    },
}  # fmt: skip


def ask(world: World, model: str, tokens: int = TOKENS, question: str = QUESTION, **more: Any) -> Any:
    request: Any = {"messages": [{"role": "user", "content": question}], "api_key": world.key, "num_retries": 0} | more
    return litellm.completion(
        model=f"hosted_vllm/{model}", api_base=f"{world.url}/v1", temperature=0, max_tokens=tokens, **request
    )


def chat(world: World) -> None:
    answer = ask(world, world.model)
    assert answer.choices[0].message.content == world.base_answer
    assert answer.usage.completion_tokens == TOKENS


def stream(world: World) -> None:
    chunks = list(ask(world, world.model, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == world.base_answer
    assert TOKENS in {chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)}


def tools(world: World) -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER_QUESTION}]
    first = ask(world, world.model, CALL_TOKENS, messages=messages, tools=[TOOL], tool_choice="required")
    (call,) = first.choices[0].message.tool_calls
    check_weather(call.function.name, call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": WEATHER_RESULT}
    last = ask(world, world.model, messages=[*messages, first.choices[0].message, result], tools=[TOOL])
    assert last.choices[0].message.content


def structured_output(world: World) -> None:
    answer = ask(world, world.model, CALL_TOKENS, CITY_QUESTION, response_format=City)
    City.model_validate_json(answer.choices[0].message.content)


def adapter_by_model(world: World) -> None:
    assert ask(world, world.adapter).choices[0].message.content == world.adapted_answer


def adapter_by_field(world: World) -> None:
    answer = ask(world, world.model, extra_body={"adapter": world.adapter})
    assert answer.choices[0].message.content == world.adapted_answer


def models(world: World) -> None:
    os.environ["HOSTED_VLLM_API_BASE"], os.environ["HOSTED_VLLM_API_KEY"] = f"{world.url}/v1", world.key
    found = litellm.get_valid_models(check_provider_endpoint=True, custom_llm_provider="hosted_vllm")
    assert {world.model, world.adapter} <= set(found), found


def errors(world: World) -> None:
    check_raises(litellm.NotFoundError, 404, "'no-such-model'", lambda: ask(world, "no-such-model"))
    check_raises(litellm.BadRequestError, 400, "top_p", lambda: ask(world, world.model, top_p=-1))
    check_raises(litellm.AuthenticationError, 401, "API key", lambda: ask(world, world.model, api_key="wrong"))


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field, "models": models,
            "errors": errors,
        }
    )  # fmt: skip
