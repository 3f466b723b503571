"""The requests of Open WebUI 0.12 to a connection of the kind "OpenAI", without Ollama, sent as it sends them.

Written after its source. It is a whole application, so its requests are sent here by httpx: what it forwards of a user,
the fields of its chats and of its tasks (titles, follow-up questions, tags), calls of tools with the answers that it
puts into the history, and parameters of a model.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
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
    check_weather,
    closed,
    run,
)  # fmt: skip

USER = {
    "X-OpenWebUI-User-Name": "J%C3%BCrgen M", "X-OpenWebUI-User-Id": "6f1c", "X-OpenWebUI-User-Email": "j@example.org",
    "X-OpenWebUI-User-Role": "user", "X-OpenWebUI-Chat-Id": "b2b7",
}  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "Get the weather of a city",
        "parameters": closed(Weather.model_json_schema()),
    },
}  # fmt: skip


def connection(world: World, key: str | None = None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key or world.key}", "Content-Type": "application/json", **USER}
    return httpx.Client(base_url=f"{world.url}/v1", headers=headers, timeout=120)


def send(world: World, body: dict[str, Any]) -> Any:
    with connection(world) as http:
        response = http.post("/chat/completions", content=json.dumps(body))
    assert response.status_code == 200, response.text
    return response.json()


def send_streaming(world: World, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks, read line by line as its middleware does."""
    chunks = []
    with connection(world) as http, http.stream("POST", "/chat/completions", content=json.dumps(body)) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data:") and line != "data: [DONE]":
                chunks.append(json.loads(line.removeprefix("data:")))
    return chunks


def body_of(model: str, tokens: int = TOKENS, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"stream": True, "model": model, "messages": messages, "temperature": 0, "max_tokens": tokens} | more


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


def chat(world: World) -> None:
    """A task: a title, follow-up questions or tags, which are one message that does not stream."""
    body = {**body_of(world.model), "stream": False}
    assert send(world, body)["choices"][0]["message"]["content"] == world.base_answer
    # Without a setting of its own the title may take 1000 tokens, which is more than there is room for.
    task = {**body, "max_tokens": 1000, "messages": [{"role": "user", "content": "Say yes."}], "stop": ["."]}
    assert send(world, task)["usage"]["completion_tokens"] > 0


def stream(world: World) -> None:
    chunks = send_streaming(world, body_of(world.model, stream_options={"include_usage": True}))
    assert text_of(chunks) == world.base_answer
    assert chunks[-1]["usage"]["completion_tokens"] == TOKENS
    # "Continue response" and "Regenerate" send a history that ends with the assistant, or has had a system message put
    # before it; images and files come as parts.
    history = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": "The capital"},
    ]
    assert text_of(send_streaming(world, body_of(world.model, messages=history)))


def tools(world: World) -> None:
    """Native calls of functions: collected from the stream, run, and put into the history with the usage so far."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": WEATHER_QUESTION}]
    body = body_of(world.model, CALL_TOKENS, tools=[TOOL], stream_options={"include_usage": True})
    chunks = send_streaming(world, body | {"messages": messages, "tool_choice": "required"})
    call: dict[str, Any] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    for chunk in chunks:
        for delta in [part for choice in chunk["choices"] for part in choice["delta"].get("tool_calls") or ()]:
            assert delta["index"] == 0
            call["id"] = call["id"] or delta["id"]
            call["function"]["name"] += delta["function"].get("name") or ""
            call["function"]["arguments"] += delta["function"].get("arguments") or ""
    check_weather(call["function"]["name"], call["function"]["arguments"])
    called = {"role": "assistant", "content": "", "tool_calls": [call], "usage": chunks[-1]["usage"]}
    messages += [called, {"role": "tool", "tool_call_id": call["id"], "content": WEATHER_RESULT}]
    assert text_of(send_streaming(world, body | {"messages": messages, "max_tokens": TOKENS}))


def structured_output(world: World) -> None:
    """A custom parameter of a model: it goes into the body as it is."""
    asked = {"type": "json_schema", "json_schema": {"name": "city", "schema": closed(City.model_json_schema())}}
    chunks = send_streaming(world, body_of(world.model, CALL_TOKENS, CITY_QUESTION, response_format=asked))
    City.model_validate_json(text_of(chunks))


def adapter_by_model(world: World) -> None:
    chunks = send_streaming(world, body_of(world.adapter))
    assert (text_of(chunks), chunks[0]["model"]) == (world.adapted_answer, f"{world.adapter}@1")


def adapter_by_field(world: World) -> None:
    """A custom parameter of a model too."""
    assert text_of(send_streaming(world, body_of(world.model, adapter=world.adapter))) == world.adapted_answer


def models(world: World) -> None:
    with connection(world) as http:
        listed = http.get("/models").json()
    assert {world.model, world.adapter} <= {model["id"] for model in listed["data"]}
    assert all("name" not in model or model["name"] for model in listed["data"])


def errors(world: World) -> None:
    """It shows `error.message`, and waits as long as Retry-After says."""
    for model, key, status, words in (
        ("no-such-model", None, 404, "'no-such-model'"), (world.model, "wrong", 401, "API key")
    ):  # fmt: skip
        with connection(world, key) as http:
            response = http.post("/chat/completions", content=json.dumps(body_of(model)))
        assert response.status_code == status and words in response.json()["error"]["message"]
    with connection(world) as http:
        response = http.post("/chat/completions", content=json.dumps(body_of(world.model, top_p=-1)))
    assert response.status_code == 400 and "top_p" in response.json()["error"]["message"]


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field, "models": models,
            "errors": errors,
        }
    )  # fmt: skip
