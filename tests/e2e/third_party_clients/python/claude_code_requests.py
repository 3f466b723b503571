"""The requests of Claude Code 2 to a gateway (`ANTHROPIC_BASE_URL`), sent as it sends them.

Written after its documentation for gateways and published captures of its traffic; it is a whole application with a
prompt of its own of 20,000 tokens, so its requests are sent here by httpx. Every one streams, asks for 32,000 tokens,
carries headers and fields of betas, and marks what may be cached; its tools have schemas with `$schema`.
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

CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
HEADERS = {
    "accept": "application/json",
    "accept-language": "*",
    "anthropic-beta": "claude-code-20250219,adaptive-thinking-2026-01-28,context-management-2025-06-27",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "content-type": "application/json",
    "sec-fetch-mode": "cors",
    "user-agent": "claude-cli/2.1.69 (external, cli)",
    "x-app": "cli",
    "x-stainless-helper-method": "stream",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
    "x-stainless-timeout": "600",
}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.69.0d9; cc_entrypoint=cli; cch=fa690;"}
SYSTEM = [BILLING, {"type": "text", "text": "You answer questions.", **CACHED}]
TOOL = {
    "name": "get_weather", "description": "Get the weather of a city",
    "input_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", **closed(Weather.model_json_schema())},
    "eager_input_streaming": True, **CACHED,
}  # fmt: skip


def connection(world: World, key: str | None = None) -> httpx.Client:
    """With ANTHROPIC_AUTH_TOKEN; with ANTHROPIC_API_KEY the key is in x-api-key."""
    headers = {**HEADERS, "authorization": f"Bearer {key or world.key}"}
    return httpx.Client(base_url=world.url, headers=headers, timeout=120)


def body_of(model: str, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    text = {"type": "text", "text": question, **CACHED}
    reminder = {"type": "text", "text": "<system-reminder>The date is 2026-11-27.</system-reminder>"}
    return {
        "model": model, "max_tokens": 32000, "stream": True, "system": SYSTEM, "temperature": 0,
        "messages": [{"role": "user", "content": [reminder, text]}],
        "metadata": {"user_id": json.dumps({"device_id": "b429", "account_uuid": "", "session_id": "fe79bd85"})},
        "thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    } | more  # fmt: skip


def send(world: World, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events, in order; each has its type twice, and the two agree."""
    events = []
    with connection(world) as http, http.stream("POST", "/v1/messages?beta=true", content=json.dumps(body)) as response:
        assert response.status_code == 200, response.read()
        name = ""
        for line in response.iter_lines():
            kind, _, rest = line.partition(":")
            if kind == "event":
                name = rest.strip()
            elif kind == "data" and rest.strip() != "[DONE]":
                events.append(json.loads(rest))
                assert events[-1]["type"] == name, events[-1]
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop") and "message_delta" in kinds, kinds
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    return "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta")


def chat(world: World) -> None:
    """A small request beside the conversation (a title, a summary), and the count of tokens before it."""
    title = body_of(world.model, "Say yes.", stream=False, max_tokens=TOKENS)
    with connection(world) as http:
        answer = http.post("/v1/messages?beta=true", content=json.dumps(title)).json()
        count = {name: title[name] for name in ("model", "messages", "system")} | {"tools": [TOOL]}
        counted = http.post("/v1/messages/count_tokens?beta=true", content=json.dumps(count))
    assert answer["content"][0]["text"] and answer["usage"]["output_tokens"] <= TOKENS, answer
    assert counted.status_code == 200 and counted.json()["input_tokens"] > answer["usage"]["input_tokens"]


def stream(world: World) -> None:
    """More tokens are asked for than the model has room for: the answer ends where the room does, or before."""
    events = send(world, body_of(world.model, "Answer with the word yes.", stop_sequences=["."]))
    assert text_of(events)
    start, delta = events[0]["message"], events[-2]
    assert start["role"] == "assistant" and start["usage"]["input_tokens"] > 0
    assert delta["delta"]["stop_reason"] in ("end_turn", "stop_sequence", "max_tokens")
    assert delta["usage"]["output_tokens"] > 0


def tools(world: World) -> None:
    asked = body_of(world.model, WEATHER_QUESTION, tools=[TOOL], max_tokens=CALL_TOKENS)
    events = send(world, asked | {"tool_choice": {"type": "any"}})
    (call,) = [e["content_block"] for e in events if e.get("content_block", {}).get("type") == "tool_use"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    arguments = json.loads("".join(d["partial_json"] for d in deltas if d["type"] == "input_json_delta"))
    check_weather(call["name"], arguments)
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    use = {"type": "tool_use", "id": call["id"], "name": call["name"], "input": arguments, **CACHED}
    result = {"type": "tool_result", "tool_use_id": call["id"], "is_error": False, "content": WEATHER_RESULT, **CACHED}
    history = [
        *asked["messages"],
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result, {"type": "text", "text": "<system-reminder>Go on.</system-reminder>"}]},
        {"role": "system", "content": "12000 tokens left"},
    ]
    assert text_of(send(world, asked | {"messages": history, "max_tokens": TOKENS}))


def structured_output(world: World) -> None:
    wanted = {"format": {"type": "json_schema", "schema": closed(City.model_json_schema())}, "effort": "medium"}
    asked = body_of(world.model, CITY_QUESTION, output_config=wanted, max_tokens=CALL_TOKENS)
    City.model_validate_json(text_of(send(world, asked)))


def adapter_by_model(world: World) -> None:
    """ANTHROPIC_MODEL=<adapter>, and the same for the small model."""
    events = send(world, bare(body_of(world.adapter, max_tokens=TOKENS)))
    assert (text_of(events), events[0]["message"]["model"]) == (world.adapted_answer, f"{world.adapter}@1")


def adapter_by_field(world: World) -> None:
    """CLAUDE_CODE_EXTRA_BODY='{"adapter": ...}'."""
    events = send(world, bare(body_of(world.model, max_tokens=TOKENS, adapter=world.adapter)))
    assert text_of(events) == world.adapted_answer


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """Without a system prompt, and with the question alone: the request of which the answer is known."""
    question = [{"role": "user", "content": [body["messages"][0]["content"][1]]}]
    return {name: value for name, value in body.items() if name != "system"} | {"messages": question}


def models(world: World) -> None:
    """What its model picker is filled from."""
    with connection(world) as http:
        assert http.head("/").status_code < 500
        listed = http.get("/v1/models?limit=1000").json()
    shown = {model["id"]: model["display_name"] for model in listed["data"]}
    assert {world.model, world.adapter} <= shown.keys() and all(shown.values())


def errors(world: World) -> None:
    for body, key, status, kind, words in (
        (body_of("no-such-model"), None, 404, "not_found_error", "'no-such-model'"),
        (body_of(world.model, top_p=-1), None, 400, "invalid_request_error", "top_p"),
        (body_of(world.model), "wrong", 401, "authentication_error", "API key"),
        (body_of(world.model, "word " * 3000), None, 400, "invalid_request_error", "prompt is too long"),
    ):
        with connection(world, key) as http:
            response = http.post("/v1/messages?beta=true", content=json.dumps(body))
        told = response.json()
        assert (response.status_code, told["type"], told["error"]["type"]) == (status, "error", kind), told
        assert words in told["error"]["message"] and told["request_id"] == response.headers["request-id"]


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field, "models": models,
            "errors": errors,
        }
    )  # fmt: skip
