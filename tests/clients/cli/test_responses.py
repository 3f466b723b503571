"""`tinylora responses` against the gateway on a socket."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.clients.cli.test_train import run
from tests.server.support.fake_engine import BASE


@pytest.fixture(autouse=True)
def url(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYLORA_URL", base_url)


def test_what_is_stored_is_listed_read_and_deleted(openai_client: openai.OpenAI) -> None:
    first = openai_client.responses.create(model=BASE, input="one")
    second = openai_client.responses.create(model=BASE, input="two", previous_response_id=first.id)
    found = json.loads(run("responses", "list", "--json").stdout)
    assert [(one["id"], one["previous_response_id"]) for one in found] == [(second.id, first.id), (first.id, None)]
    assert first.id in run("responses", "list", "--model", BASE, "--status", "completed").stdout
    assert len(json.loads(run("responses", "list", "--limit", 1, "--json").stdout)) == 1
    assert run("responses", "show", first.id).stdout.strip() == first.output_text
    assert json.loads(run("responses", "show", first.id, "--json").stdout)["id"] == first.id
    assert "background" in run("responses", "cancel", first.id, code=1).stderr
    assert "is deleted" in run("responses", "delete", first.id).stdout
    assert first.id in run("responses", "show", first.id, code=1).stderr
    assert "status" in run("responses", "list", "--status", "nice", code=1).stderr


def test_one_that_is_streamed_in_the_background_is_watched(openai_client: openai.OpenAI) -> None:
    events: list[Any] = list(openai_client.responses.create(model=BASE, input="one", background=True, stream=True))
    response = events[-1].response
    assert run("responses", "watch", response.id).stdout.strip() == response.output_text.strip()
    rest = run("responses", "watch", response.id, "--after", 2, "--json").stdout.splitlines()
    assert [json.loads(event)["sequence_number"] for event in rest] == list(range(3, len(events)))
    cut = openai_client.responses.create(model=BASE, input="1", background=True, stream=True, max_output_tokens=2)
    response = list(cut)[-1].response  # type: ignore[union-attr]
    assert "max_output_tokens" in run("responses", "watch", response.id, code=1).stderr
