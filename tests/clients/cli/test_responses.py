"""`tinylora responses` against the gateway on a socket."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.clients.cli.test_other_server import serving
from tests.clients.cli.test_train import run
from tests.server.support.fake_engine import BASE, FakeEngine


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


def test_nothing_behind_the_last_event_is_the_end(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    whole: list[Any] = list(openai_client.responses.create(model=BASE, input="1", background=True, stream=True))
    for flags in ((), ("--json",)):
        result = run("responses", "watch", whole[-1].response.id, "--after", whole[-1].sequence_number, *flags)
        assert (result.stdout, result.stderr) == ("", ""), flags
    engine.too_long = "2"
    failed: list[Any] = list(openai_client.responses.create(model=BASE, input="2", background=True, stream=True))
    for after in (0, failed[-1].sequence_number):
        result = run("responses", "watch", failed[-1].response.id, "--after", after, code=1)
        assert (result.stdout, "is failed: The prompt is too long" in result.stderr) == ("", True), after


def test_what_a_model_says_cannot_command_the_terminal(openai_client: openai.OpenAI, engine: FakeEngine) -> None:
    engine.base_answer = "red\x1b[31m \x9b2J"
    events: list[Any] = list(openai_client.responses.create(model=BASE, input="1", background=True, stream=True))
    for command in ("show", "watch"):
        said = run("responses", command, events[-1].response.id).stdout
        assert "red[31m" in said and not {"\x1b", "\x9b"} & set(said), command


@pytest.mark.parametrize("missing", [0, 10])
def test_events_that_break_off_before_the_end_are_no_whole_answer(missing: int) -> None:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    delta = {"type": "response.output_text.delta", **place, "delta": "half ", "sequence_number": 7}
    event = f"event: {delta['type']}\ndata: {json.dumps(delta)}\n\n".encode()
    with serving("text/event-stream", event, missing) as url:
        result = run("responses", "watch", "resp_1", "--url", url, code=1)
        as_json = run("responses", "watch", "resp_1", "--url", url, "--json", code=1)
    assert result.stdout == "half \n"
    assert as_json.stdout.count("\n") == 1 and json.loads(as_json.stdout) == delta
    assert "broke off before their end; tinylora responses watch resp_1 --after 7 goes on" in result.stderr


def test_no_event_at_all_is_no_end() -> None:
    with serving("text/event-stream", b"") as url:
        result = run("responses", "watch", "resp_1", "--url", url, code=1)
    assert result.stdout == "" and "tinylora responses watch resp_1 goes on" in result.stderr
