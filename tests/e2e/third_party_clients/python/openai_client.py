"""The official openai client."""

from __future__ import annotations

import time
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

MESSAGES: Any = [{"role": "user", "content": QUESTION}]
ROW = '{"messages": [{"role": "user", "content": "What is 3 + 4?"}], "answer": "7"}\n'
GRADER: Any = {
    "type": "string_check", "name": "exact", "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}",
    "operation": "eq",
}  # fmt: skip


def client_of(world: World) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{world.url}/v1", api_key=world.key, max_retries=0)


def ask(world: World, model: str, **more: Any) -> Any:
    return client_of(world).chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_completion_tokens=TOKENS, **more
    )


def chat(world: World) -> None:
    answer = ask(world, world.model)
    assert answer.choices[0].message.content == world.base_answer, answer
    assert answer.usage.completion_tokens == TOKENS


def stream(world: World) -> None:
    chunks = list(ask(world, world.model, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == world.base_answer
    assert chunks[-1].usage.completion_tokens == TOKENS


def tools(world: World) -> None:
    client, tool = client_of(world), openai.pydantic_function_tool(Weather, name="get_weather")
    messages: Any = [{"role": "user", "content": WEATHER_QUESTION}]
    request: Any = {"model": world.model, "tools": [tool], "temperature": 0}
    first = client.chat.completions.parse(
        messages=messages, tool_choice="required", max_completion_tokens=CALL_TOKENS, **request
    )
    (call,) = first.choices[0].message.tool_calls or ()
    check_weather(call.function.name, call.function.arguments)
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": WEATHER_RESULT}]
    last = client.chat.completions.create(messages=messages, max_completion_tokens=TOKENS, **request)
    assert last.choices[0].message.content


def structured_output(world: World) -> None:
    answer = client_of(world).chat.completions.parse(
        model=world.model, messages=[{"role": "user", "content": CITY_QUESTION}], response_format=City, temperature=0,
        max_completion_tokens=CALL_TOKENS,
    )  # fmt: skip
    assert isinstance(answer.choices[0].message.parsed, City), answer


def adapter_by_model(world: World) -> None:
    answer = ask(world, world.adapter)
    assert (answer.choices[0].message.content, answer.model) == (world.adapted_answer, f"{world.adapter}@1")


def adapter_by_field(world: World) -> None:
    answer = ask(world, world.model, extra_body={"adapter": world.adapter})
    assert (answer.choices[0].message.content, answer.model) == (world.adapted_answer, f"{world.adapter}@1")


def models(world: World) -> None:
    client = client_of(world)
    assert {world.model, world.adapter} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(world.adapter).id == world.adapter


def errors(world: World) -> None:
    check_raises(openai.NotFoundError, 404, "'no-such-model'", lambda: ask(world, "no-such-model"))
    check_raises(openai.BadRequestError, 400, "top_p", lambda: ask(world, world.model, top_p=-1))
    stranger = openai.OpenAI(base_url=f"{world.url}/v1", api_key="wrong", max_retries=0)
    check_raises(openai.AuthenticationError, 401, "API key", lambda: stranger.models.list())


def files(world: World) -> None:
    client = client_of(world)
    made = client.files.create(file=("train.jsonl", ROW.encode()), purpose="fine-tune")
    assert client.files.wait_for_processing(made.id).filename == "train.jsonl"
    assert client.files.content(made.id).text == ROW
    assert made.id in {file.id for file in client.files.list(purpose="fine-tune")}
    assert client.files.delete(made.id).deleted


def fine_tuning(world: World) -> None:
    client = client_of(world)
    file = client.files.create(file=("train.jsonl", ROW.encode()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=world.model, training_file=file.id, suffix="peers", metadata={"by": "openai"},
        method={"type": "reinforcement", "reinforcement": {"grader": GRADER}},
    )  # fmt: skip
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status == "succeeded" and job.fine_tuned_model, job
    assert list(client.fine_tuning.jobs.list_events(job.id))
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert job.id in {one.id for one in client.fine_tuning.jobs.list(metadata={"by": "openai"})}
    assert ask(world, job.fine_tuned_model).model.startswith(job.fine_tuned_model)


if __name__ == "__main__":
    run(
        {
            "chat": chat, "stream": stream, "tools": tools, "structured_output": structured_output,
            "adapter_by_model": adapter_by_model, "adapter_by_field": adapter_by_field, "models": models,
            "errors": errors, "files": files, "fine_tuning": fine_tuning,
        }
    )  # fmt: skip
