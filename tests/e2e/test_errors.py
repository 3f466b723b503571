"""Mistakes of clients arrive as the official client's typed exceptions, with a message that helps."""

from __future__ import annotations

import openai
import pytest

from tests.e2e.talking import Talk, vector_bytes

pytestmark = pytest.mark.engine


def test_unknown_and_deleted_adapters_are_not_found(talk: Talk) -> None:
    for request in (talk.greedy_request("acme/nobody"), talk.greedy_request(model="acme/nobody")):
        with pytest.raises(openai.NotFoundError, match="'acme/nobody'"):
            talk.client.chat.completions.create(**request)
    talk.upload("acme/gone", 0.05)
    talk.greedy("acme/gone")
    assert talk.http.delete("/adapters/acme%2Fgone").status_code == 200
    for request in (talk.greedy_request("acme/gone"), talk.greedy_request(model="acme/gone@1")):
        with pytest.raises(openai.NotFoundError, match="'acme/gone"):
            talk.client.chat.completions.create(**request)


def test_a_vector_of_another_length_is_refused_with_both_lengths(talk: Talk) -> None:
    with pytest.raises(openai.BadRequestError, match=r"\b24\b.*\b26\b|\b26\b.*\b24\b") as caught:
        talk.greedy({"vector": "AAAA" * 8})
    assert caught.value.param == "adapter.vector"
    response = talk.http.post(
        "/adapters?name=acme/short",
        content=vector_bytes(0.05)[:25],
        headers={"content-type": "application/octet-stream"},
    )
    assert response.status_code == 400
    assert "25" in response.json()["error"]["message"] and "26" in response.json()["error"]["message"]
    assert talk.http.get("/adapters/acme%2Fshort").status_code == 404


def test_adapter_and_model_that_name_different_adapters_conflict(talk: Talk) -> None:
    talk.upload("acme/left", 0.05)
    talk.upload("acme/right", 0.06)
    with pytest.raises(openai.BadRequestError, match=r"acme/left@1.*acme/right@1") as caught:
        talk.greedy("acme/right", model="acme/left")
    assert caught.value.code == "adapter_conflict"
    assert talk.greedy("acme/left@1", model="acme/left").model == "acme/left@1"


def test_the_engines_own_refusals_keep_openais_shape(talk: Talk) -> None:
    talk.upload("acme/long", 0.05)
    with pytest.raises(openai.BadRequestError, match="1024"):
        talk.greedy("acme/long", question="word " * 2000)
    with pytest.raises(openai.BadRequestError):
        talk.client.chat.completions.create(**talk.greedy_request("acme/long") | {"temperature": -1})
    assert talk.greedy("acme/long").model == "acme/long@1"
