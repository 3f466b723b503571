"""A request with so many fields, messages or stop texts that others would wait for it is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx
import openai
import pytest

from server.engine.sampling_limits import MAX_ALLOWED_TOKENS, MAX_BIASED_TOKENS
from server.inference.counts import (
    MAX_BAD_WORDS_CHARS,
    MAX_FIELDS,
    MAX_MEDIA,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_REPETITION,
    MAX_STOPS,
    MAX_TOOLS,
)

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("outer", [None, "sampling_params", "vllm_xargs", "parameters", "extra_body"])
async def test_fields_without_number_are_refused(client: httpx.AsyncClient, outer: str | None) -> None:
    for number, status in ((200, 200), (MAX_FIELDS + 1, 400)):
        fields = {f"k{n}": n for n in range(number)}
        response = await client.post(CHAT, json={"messages": [], **({outer: fields} if outer else fields)})
        assert response.status_code == status
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (outer, "too_many_fields")
    assert f"fields, expected at most {MAX_FIELDS}" in error["message"]


@pytest.mark.parametrize(
    ("path", "field", "item", "most"),
    [
        (CHAT, "messages", {}, MAX_MESSAGES),
        ("/tokenize", "messages", {}, MAX_MESSAGES),
        ("/v1/responses", "input", {}, MAX_MESSAGES),
        (CHAT, "tools", {}, MAX_TOOLS),
        (CHAT, "stop", "x", MAX_STOPS),
        ("/v1/messages", "stop_sequences", "x", MAX_STOPS),
    ],
)
async def test_a_list_that_is_too_long_is_refused(
    client: httpx.AsyncClient, path: str, field: str, item: object, most: int
) -> None:
    for number, status in ((most, 200), (most + 1, 400)):
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        body = {"messages": [], limit: 1, "store": False, field: [item] * number}
        response = await client.post(path, json=body)
        assert response.status_code == status, response.text
    message = response.json()["error"]["message"]
    assert message == f"{field} is a list of {most + 1}, expected a list of at most {most}."


async def test_stop_texts_beside_token_ids_are_counted_too(client: httpx.AsyncClient) -> None:
    body = {"token_ids": [1], "sampling_params": {"stop": ["x"] * (MAX_STOPS + 1)}}
    error = (await client.post("/inference/v1/generate", json=body)).json()["error"]
    assert (error["param"], error["code"]) == ("sampling_params.stop", "list_too_long")


@pytest.mark.parametrize("stream", [False, True])
def test_ids_of_tokens_are_counted(openai_client: openai.OpenAI, stream: bool) -> None:
    create: Any = openai_client.chat.completions.create
    for field, most, kind in (
        ("logit_bias", MAX_BIASED_TOKENS, "an object"),
        ("allowed_token_ids", MAX_ALLOWED_TOKENS, "a list"),
    ):
        for number in (most, most + 1):
            ids = {str(token): 1 for token in range(number)} if kind == "an object" else list(range(number))
            ask = partial(create, model="base-alias", messages=[], max_tokens=1, stream=stream, extra_body={field: ids})
            if number == most:
                ask()
                continue
            with pytest.raises(openai.BadRequestError, match=f"expected {kind} of at most {most}") as refused:
                ask()
            assert (refused.value.param, refused.value.code) == (field, "list_too_long")


@pytest.mark.parametrize("field", ["logit_bias", "allowed_token_ids"])
async def test_nor_more_of_them_beside_token_ids(client: httpx.AsyncClient, field: str) -> None:
    ids = dict.fromkeys(map(str, range(1025)), 1)
    body = {"token_ids": [1], "sampling_params": {field: ids if field == "logit_bias" else [*ids]}}
    error = (await client.post("/inference/v1/generate", json=body)).json()["error"]
    assert (error["param"], error["code"]) == (f"sampling_params.{field}", "list_too_long")


@pytest.mark.parametrize("stream", [False, True])
def test_characters_of_bad_words_are_counted_over_all_of_them(openai_client: openai.OpenAI, stream: bool) -> None:
    create: Any = openai_client.chat.completions.create
    half = "x" * (MAX_BAD_WORDS_CHARS // 2)
    ask = partial(create, model="base-alias", messages=[], max_tokens=1, stream=stream)
    ask(extra_body={"bad_words": [half, half, 1]})  # what is no text is the engine's to refuse
    with pytest.raises(openai.BadRequestError, match=f"expected at most {MAX_BAD_WORDS_CHARS} in all") as refused:
        ask(extra_body={"bad_words": [half, half, "x"]})
    assert (refused.value.param, refused.value.code) == ("bad_words", "list_too_long")


async def test_nor_are_they_longer_beside_token_ids(client: httpx.AsyncClient) -> None:
    for words in (["x" * (MAX_BAD_WORDS_CHARS + 1)], "x" * (MAX_BAD_WORDS_CHARS + 1)):
        body = {"token_ids": [1], "sampling_params": {"bad_words": words}}
        error = (await client.post("/inference/v1/generate", json=body)).json()["error"]
        assert (error["param"], error["code"]) == ("sampling_params.bad_words", "list_too_long")


@pytest.mark.parametrize(
    ("path", "field"), [(CHAT, "messages"), ("/v1/responses", "input"), ("/invocations", "messages")]
)
async def test_parts_of_all_messages_are_counted(client: httpx.AsyncClient, path: str, field: str) -> None:
    said = [{"role": "user", "content": [0] * (MAX_PARTS // 2)}] * 2
    fits = await client.post(path, json={field: said, "store": False})
    assert fits.status_code == (404 if path == "/invocations" else 200)
    error = (await client.post(path, json={field: [*said, {"role": "user", "content": [0]}]})).json()["error"]
    assert (error["param"], error["code"]) == (field, "list_too_long")
    assert f"{MAX_PARTS + 1} parts" in error["message"]


@pytest.mark.parametrize(
    ("half", "what", "most"),
    [
        ([{}] * (MAX_MESSAGES // 2), "messages", MAX_MESSAGES),
        ([{"content": [0] * (MAX_PARTS // 2)}], "parts", MAX_PARTS),
    ],
)
async def test_they_are_counted_over_all_conversations(
    client: httpx.AsyncClient, half: list[dict[str, Any]], what: str, most: int
) -> None:
    path = "/v1/chat/completions/batch"
    fits = await client.post(path, json={"messages": [half, half]})
    assert fits.status_code == 404, fits.text  # the test's engine has no such route
    refused = await client.post(path, json={"messages": [half, [*half, *half[:1]]]})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "messages", "list_too_long")
    assert f"{what}, expected at most {most} in all of them." in error["message"]


@pytest.mark.parametrize("field", ["max_pattern_size", "min_count"])
@pytest.mark.parametrize("size", [MAX_REPETITION + 1, 10**400, "257", 256.5, "1e9", "inf"])
async def test_a_repetition_that_is_looked_for_is_short(client: httpx.AsyncClient, field: str, size: object) -> None:
    sought = {"max_pattern_size": 20, "min_count": 3}
    for body, where in (
        ({"messages": [], "repetition_detection": {**sought, field: size}}, "repetition_detection"),
        (
            {"messages": [], "sampling_params": {"repetition_detection": {**sought, field: size}}},
            "sampling_params.repetition_detection",
        ),
    ):
        response = await client.post(CHAT, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, f"{where}.{field}")
    for fits in (48, "3", -5, None, "many", {}):  # what is no number is the engine's to refuse
        body = {"messages": [], "repetition_detection": {**sought, field: fits}}
        assert (await client.post(CHAT, json=body)).status_code == 200


async def test_nor_does_it_compare_much_at_every_token(client: httpx.AsyncClient) -> None:
    for size, count, status in ((100, 3, 200), (64, 8, 200), (16, 128, 200), (32, 256, 400), (64, 9, 400)):
        sought = {"min_pattern_size": 1, "max_pattern_size": size, "min_count": count}
        response = await client.post(CHAT, json={"messages": [], "repetition_detection": sought})
        assert response.status_code == status
        if status == 400:
            assert response.json()["error"]["param"] == "repetition_detection"


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
async def test_images_are_counted_over_all_messages(client: httpx.AsyncClient, path: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    for number, status in ((MAX_MEDIA, 200), (MAX_MEDIA + 1, 400)):
        said = [{"role": "user", "content": [image]} for _ in range(number - 2)]
        nested = [{"type": "tool_result", "content": [{"type": "image", "source": {}}, {"image_url": "x"}]}]
        response = await client.post(path, json={"messages": [*said, {"role": "user", "content": nested}]})
        assert response.status_code == status
    assert "There are 33 images, sounds and videos, expected at most 32" in response.json()["error"]["message"]
    bare = await client.post("/v1/completions", json={"prompt": "x", "images": ["data:x"] * (MAX_MEDIA + 1)})
    assert bare.status_code == 400
