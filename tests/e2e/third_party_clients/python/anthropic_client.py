"""The official anthropic client, over /v1/messages."""

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
    closed,
    run,
)  # fmt: skip

TOOL: Any = {
    "name": "get_weather", "description": "Get the weather of a city",
    "input_schema": closed(Weather.model_json_schema()),
}  # fmt: skip


def client_of(world: World) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=world.url, api_key=world.key, max_retries=0)


GREEDY: Any = {"temperature": 0}  # which its methods have no argument for


def request(model: str, **body: Any) -> Any:
    return {
        "model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS,
        "extra_body": GREEDY | body,
    }  # fmt: skip


def chat(world: World) -> None:
    client = client_of(world)
    answer = client.messages.create(**request(world.model))
    assert answer.content[0].text == world.base_answer, answer  # type: ignore[union-attr]
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", TOKENS)
    counted = client.messages.count_tokens(model=world.model, messages=request("")["messages"])
    # Those of them that were in the cache are counted apart.
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


def stream(world: World) -> None:
    with client_of(world).messages.stream(**request(world.model)) as pieces:
        assert "".join(pieces.text_stream) == world.base_answer
        assert pieces.get_final_message().usage.output_tokens == TOKENS


def tools(world: World) -> None:
    client = client_of(world)
    messages: Any = [{"role": "user", "content": WEATHER_QUESTION}]
    ask: Any = {"model": world.model, "tools": [TOOL], "extra_body": GREEDY}
    first = client.messages.create(messages=messages, tool_choice={"type": "any"}, max_tokens=CALL_TOKENS, **ask)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    check_weather(call.name, call.input)
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": WEATHER_RESULT}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(messages=messages, max_tokens=TOKENS, **ask)
    assert last.content[0].text  # type: ignore[union-attr]


def structured_output(world: World) -> None:
    answer = client_of(world).messages.parse(
        model=world.model, messages=[{"role": "user", "content": CITY_QUESTION}], max_tokens=CALL_TOKENS,
        output_format=City, extra_body=GREEDY,
    )  # fmt: skip
    assert isinstance(answer.parsed_output, City), answer


def adapter_by_model(world: World) -> None:
    answer = client_of(world).messages.create(**request(world.adapter))
    assert (answer.content[0].text, answer.model) == (world.adapted_answer, f"{world.adapter}@1")  # type: ignore[union-attr]


def adapter_by_field(world: World) -> None:
    answer = client_of(world).messages.create(**request(world.model, adapter=world.adapter))
    assert (answer.content[0].text, answer.model) == (world.adapted_answer, f"{world.adapter}@1")  # type: ignore[union-attr]


def models(world: World) -> None:
    client = client_of(world)
    known = {model.id: model for model in client.models.list(limit=5)}  # page by page
    assert {world.model, world.adapter} <= known.keys()
    found = client.models.retrieve(world.adapter)
    assert (found.id, found.type, found.display_name) == (world.adapter, "model", world.adapter)
    assert found.created_at.year > 2000 and found == known[world.adapter]


def errors(world: World) -> None:
    client = client_of(world)
    check_raises(
        anthropic.NotFoundError, 404, "'no-such-model'", lambda: client.messages.create(**request("no-such-model"))
    )
    check_raises(
        anthropic.BadRequestError, 400, "top_p", lambda: client.messages.create(**request(world.model, top_p=-1))
    )
    stranger = anthropic.Anthropic(base_url=world.url, api_key="wrong", max_retries=0)
    check_raises(
        anthropic.AuthenticationError, 401, "API key", lambda: stranger.messages.create(**request(world.model))
    )


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field, "models": models,
            "errors": errors,
        }
    )  # fmt: skip
