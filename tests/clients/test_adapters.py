"""The adapters client against the real gateway on a socket, through the official openai client."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from clients.adapters import Adapters


def test_life_of_an_adapter(openai_client: openai.OpenAI) -> None:
    adapters = Adapters(openai_client)
    first = adapters.upload("acme/math", [0.5] * 13, metadata={"team": "blue"})
    assert (first["id"], first["metadata"]) == ("acme/math@1", {"team": "blue"})
    data = np.arange(2, dtype="<f4").tobytes()
    adapters.upload("acme/math", data, dtype="float32", recipe={"groups": 1, "u": 2})
    assert adapters.vector("acme/math") == data
    assert adapters.get("acme/math@1")["version"] == 1

    assert adapters.set_alias("acme/math", "prod", 1)["object"]
    adapters.set_alias("acme/math", "prod", {1: 90, 2: 10})
    adapters.roll_back_alias("acme/math", "prod")
    answer = openai_client.chat.completions.create(
        model="acme/math@prod", messages=[{"role": "user", "content": "hello"}]
    )
    assert (answer.choices[0].message.content or "").startswith("acme/math@1: ")

    adapters.roll_back_alias("acme/math", "prod")
    adapters.delete("acme/math")
    with pytest.raises(openai.NotFoundError):
        adapters.get("acme/math")
    adapters.restore("acme/math")
    assert adapters.vector("acme/math@2") == data


def test_listing_goes_through_all_pages_of_what_is_asked_for(openai_client: openai.OpenAI) -> None:
    adapters = Adapters(openai_client)
    for number in range(5):
        adapters.upload(f"a/{number}", [0.0] * 13, metadata={"parity": str(number % 2)})
    adapters.upload("b", [0.0] * 13)
    assert [item["name"] for item in adapters.list(prefix="a/", limit=2)] == [f"a/{number}" for number in range(5)]
    assert [item["name"] for item in adapters.list(metadata={"parity": "1"})] == ["a/1", "a/3"]
    assert list(adapters.list(public=True)) == []


def test_upload_sent_twice_under_one_key_is_one_version(openai_client: openai.OpenAI) -> None:
    adapters = Adapters(openai_client)
    answers = [adapters.upload("once", [0.0] * 13, idempotency_key="k1") for _ in range(2)]
    assert answers[0] == answers[1]
    assert adapters.get("once")["version"] == 1


def test_mistakes_raise_the_exceptions_of_the_openai_client(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="26 bytes"):
        Adapters(openai_client).upload("short", b"\0\0")
