"""The gateway as the official openai client sees it, over a socket."""

import asyncio

import httpx
import openai
import pytest

from tests.server.support.fake_engine import BASE

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def stored(base_url: str) -> None:
    for value in (1.0, 2.0):
        response = httpx.post(f"{base_url}/adapters", json={"name": "acme/math", "vector": [value] * 13})
        assert response.status_code == 201


def test_chat_runs_with_the_adapter_of_extra_body_or_model(openai_client: openai.OpenAI) -> None:
    create = openai_client.chat.completions.create
    by_field = create(model=BASE, messages=USER, extra_body={"adapter": "acme/math@1"})  # type: ignore[arg-type]
    assert by_field.model == "acme/math@1"
    assert by_field.choices[0].message.content == f"acme/math@1: {[1.0] * 13}"
    by_model = create(model="acme/math", messages=USER)  # type: ignore[arg-type]
    assert by_model.choices[0].message.content == f"acme/math@2: {[2.0] * 13}"
    assert create(model=BASE, messages=USER).choices[0].message.content == "base"  # type: ignore[arg-type]


def test_stream_runs_with_the_adapter(openai_client: openai.OpenAI) -> None:
    chunks = openai_client.chat.completions.create(
        model=BASE,
        messages=USER,  # type: ignore[arg-type]
        stream=True,
        extra_body={"adapter": [{"adapter": "acme/math@1", "weight": 2}, {"adapter": "acme/math", "weight": 1}]},
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.startswith("mix:") and text.endswith(f"{[4.0] * 13} ")


async def test_asynchronous_client_runs_many_adapters_at_once(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0) as client:

        async def content(value: float) -> str | None:
            body = {"adapter": {"vector": [value] * 13}}
            answer = await client.chat.completions.create(model=BASE, messages=USER, extra_body=body)  # type: ignore[arg-type]
            return answer.choices[0].message.content

        contents = await asyncio.gather(*(content(float(value)) for value in range(16)))
    assert [(text or "").partition(": ")[2] for text in contents] == [str([float(v)] * 13) for v in range(16)]


def test_models_list_and_retrieve_adapters(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == [BASE, "base-alias", "acme/math"]
    assert openai_client.models.retrieve("acme/math").id == "acme/math"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        openai_client.models.retrieve("acme/none")


@pytest.mark.parametrize(
    ("model", "adapter", "error", "code", "message"),
    [
        ("none", None, openai.NotFoundError, "model_not_found", "'none' does not exist"),
        (BASE, "none", openai.NotFoundError, "adapter_not_found", "no adapter 'none'"),
        (BASE, {"vector": [1.0]}, openai.BadRequestError, "invalid_vector", "1 numbers, expected 13"),
        (BASE, {"vector": [1.0] * 13, "recipe": {"u": 0}}, openai.BadRequestError, "invalid_recipe", "from 1 to 4096"),
        ("acme/math", "acme/math@1", openai.BadRequestError, "adapter_conflict", "acme/math@2"),
        (BASE, "x" * 60_000, openai.APIStatusError, "request_too_large", "at most 50000 bytes"),
    ],
)
def test_errors_arrive_as_typed_exceptions_with_their_message(
    openai_client: openai.OpenAI,
    model: str,
    adapter: object,
    error: type[openai.APIStatusError],
    code: str,
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        openai_client.chat.completions.create(model=model, messages=USER, extra_body={"adapter": adapter})  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.request_id


def test_calls_that_there_are_not_say_what_there_is(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/messages/count_tokens") as caught:
        openai_client.responses.input_tokens.count(model=BASE, input="hi")
    assert caught.value.code == "not_supported"
    with pytest.raises(openai.NotFoundError, match="ask the model for a summary"):
        openai_client.responses.compact(model=BASE, input="hi")


def test_deleted_adapter_raises_not_found(openai_client: openai.OpenAI, base_url: str) -> None:
    httpx.delete(f"{base_url}/adapters/acme%2Fmath")
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="acme/math", messages=USER)  # type: ignore[arg-type]


def test_adapters_are_listed_below_the_clients_base_url(openai_client: openai.OpenAI, base_url: str) -> None:
    for number in range(5):
        httpx.post(f"{base_url}/v1/adapters", json={"name": f"n{number}", "vector": [1.0] * 13})
    page = openai_client.get("/adapters", cast_to=httpx.Response, options={"params": {"limit": 2}})
    assert page.json()["has_more"] is True
    assert page.json()["last_id"] == "n0@1"
