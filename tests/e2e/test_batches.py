"""Lines of a batch answer as requests do, each with its own adapter, on every endpoint that batches are for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.talking import QUESTION, Answer, Talk
from tests.server.support.batch_kit import ended, line, make_batch, rows

pytestmark = pytest.mark.engine


def bodies(talk: Talk, lines: list[str], endpoint: str) -> dict[str, Any]:
    """What the lines were answered, by their custom_id."""
    done = ended(talk.client, make_batch(talk.client, lines, endpoint), patience_s=240)
    assert (done.status, done.error_file_id) == ("completed", None)
    return {row["custom_id"]: row["response"]["body"] for row in rows(talk.client, done.output_file_id)}


def test_lines_answer_as_requests_do(talk: Talk) -> None:
    talk.upload("acme/batched", 0.3)
    asked = {**talk.greedy_request("acme/batched"), "ignore_eos": True}
    del asked["extra_body"]
    lines = [
        line("base", **asked),
        line("field", **asked, adapter="acme/batched"),
        line("model", **{**asked, "model": "acme/batched@1"}),
    ]
    answers = bodies(talk, lines, "/v1/chat/completions")
    expected = {"base": talk.greedy(), "field": talk.greedy("acme/batched"), "model": talk.greedy("acme/batched")}
    for name, body in answers.items():
        content = body["choices"][0]["logprobs"]["content"]
        got = Answer(
            body["model"],
            body["choices"][0]["message"]["content"],
            [item["token"] for item in content],
            [item["logprob"] for item in content],
        )
        assert (got.model, got.tokens) == (expected[name].model, expected[name].tokens)
        assert got.logprobs == pytest.approx(expected[name].logprobs, abs=1e-3)
    assert answers["base"]["choices"] != answers["field"]["choices"]


def test_completions_and_responses_are_answered_too(talk: Talk) -> None:
    request = {"model": talk.base, "temperature": 0}
    told = line("a", url="/v1/completions", **request, prompt=QUESTION, max_tokens=4, ignore_eos=True)
    assert bodies(talk, [told], "/v1/completions")["a"]["usage"]["completion_tokens"] == 4
    told = line("b", url="/v1/responses", **request, input=QUESTION, max_output_tokens=3)
    response = bodies(talk, [told], "/v1/responses")["b"]
    assert (response["object"], response["status"]) == ("response", "incomplete")
