"""The playground: two answers side by side, compared by the model's own log-probabilities; stopped; copied."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer
from tests.server.support.sampling_engine import NAME, WORDS, tiny_tokenizer

QUESTION = "w20 w31"
VECTOR = [1.5, -1.0, 0.5] * 4 + [2.0]


@pytest.fixture
def page(server: Server, visit: Callable[..., Visitor]) -> Page:
    """The playground with a question, the base model at the left and an adapter at the right."""
    body = {"name": "acme/math", "vector": VECTOR}
    assert server.http.post("/v1/adapters", json=body).status_code == 201
    page = visit(server.url).open("playground?right=acme/math")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_label("Most tokens").fill("8")
    return page


def column(page: Page, label: str) -> Any:
    return page.get_by_role("region", name=label, exact=True)


def scores(server: Server, words: list[str], **adapter: Any) -> list[float]:
    """The log-probabilities of `words` as an answer to the question."""
    prompt = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    ids = [WORDS.index(word) for word in words]
    body = {"model": NAME, "prompt": [*prompt, *ids], "max_tokens": 1, "prompt_logprobs": 0, **adapter}
    told = server.http.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
    return [told[len(prompt) + place][str(token)]["logprob"] for place, token in enumerate(ids)]


def test_two_answers_and_how_likely_each_token_is_on_both_sides(server: Server, page: Page) -> None:
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Both have answered.")).to_be_attached()
    for label, here, other in (("Left", {}, {"adapter": "acme/math"}), ("Right", {"adapter": "acme/math"}, {})):
        side = column(page, label)
        expect(side.get_by_text(re.compile(r"^First token after [\d.]+ m?s, all \d after"))).to_be_visible()
        side.get_by_text("Tokens as a table").click()
        rows = side.get_by_role("table").get_by_role("row").all()[1:]
        cells = [row.get_by_role("cell").all_inner_texts() for row in rows]
        words = [row.get_by_role("rowheader").inner_text().strip() for row in rows]
        assert [float(one[0]) for one in cells] == pytest.approx(scores(server, words, **here), abs=0.006)
        assert [float(one[1]) for one in cells] == pytest.approx(scores(server, words, **other), abs=0.006)
    # The adapter moves the model, which the colours show.
    assert column(page, "Right").locator(".answer [class*=up-], .answer [class*=down-]").count() > 0


def test_strength_and_mixtures_are_what_is_sent(server: Server, page: Page) -> None:
    slider = column(page, "Right").get_by_label("Strength")
    slider.fill("0")
    left = column(page, "Left")
    left.get_by_label("Mixture").check()
    left.get_by_label("Adapter", exact=False).nth(1).wait_for()
    names = left.get_by_role("combobox", name="Adapter", exact=True)
    names.nth(0).fill("acme/math")
    names.nth(1).fill("acme/math@1")
    left.get_by_label("Weight").nth(1).fill("0.5")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Both have answered.")).to_be_attached()
    # The two answers, before they were compared.
    ran = sorted(
        [
            [0.0] * 13 if served is None else served.adapter.vector().flatten().tolist()
            for served in server.engine.adapters[:2]
        ],
        key=lambda vector: max(map(abs, vector)),
    )
    assert ran == [pytest.approx([0.0] * 13), pytest.approx([1.5 * number for number in VECTOR])]
    # At no strength the adapter is the base model.
    words = column(page, "Right").locator(".answer").inner_text().split()
    assert scores(server, words) == pytest.approx(
        scores(server, words, adapter=[{"adapter": "acme/math", "weight": 0}]), abs=1e-6
    )


def test_stopping_ends_the_answer_and_the_request(server: Server, page: Page) -> None:
    server.engine.hold_stream = asyncio.Event()
    page.get_by_role("button", name="Ask both").click()
    expect(column(page, "Right").get_by_text("First token after")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(column(page, "Right").get_by_text("Stopped.")).to_be_visible()
    expect(page.get_by_role("button", name="Ask both")).to_be_enabled()
    page.wait_for_timeout(300)
    assert server.engine.stopped == 2


def test_an_error_is_said_in_its_column_and_the_other_answers(server: Server, page: Page) -> None:
    column(page, "Right").get_by_label("Adapter", exact=True).last.fill("nobodys/adapter")
    page.get_by_role("button", name="Ask both").click()
    expect(column(page, "Right").get_by_role("alert")).to_contain_text("nobodys/adapter")
    expect(column(page, "Left").get_by_text(re.compile("^First token after"))).to_be_visible()


def test_what_is_copied_does_the_same_elsewhere(server: Server, page: Page) -> None:
    page.get_by_label("Question").fill("w20 w31's")
    right = column(page, "Right")
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Both have answered.")).to_be_attached()
    answer = right.locator(".answer").inner_text().split()
    for button, command in (("Copy as curl", ["bash", "-c"]), ("Copy as Python", [sys.executable, "-c"])):
        right.get_by_role("button", name=button).click()
        expect(page.get_by_text("Copied.").first).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()")
        told = subprocess.run([*command, text], capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stderr
        assert " ".join(answer) in " ".join(told.stdout.split())


def test_the_version_that_is_asked_is_that_of_the_adapter_named(server: Server, visit: Callable[..., Visitor]) -> None:
    for name in ("acme/math", "acme/math", "acme/other"):
        server.http.post("/v1/adapters", json={"name": name, "vector": VECTOR})
    visitor = visit(server.url)
    # Of a key that may ask the model, and list nothing.
    visitor.context.route("**/acme/math/versions?*", lambda route: route.abort())
    page = visitor.open("playground?right=acme/math@1")
    right = column(page, "Right")
    version = right.get_by_label("Version or alias")
    expect(version).to_have_value("1")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask both").click()
    expect(page.get_by_text("Both have answered.")).to_be_attached()
    served = [one for one in server.engine.adapters if one is not None]
    assert {one.name for one in served} == {"acme/math@1"}
    # The same number of another adapter is something else.
    name = right.get_by_role("combobox", name="Adapter", exact=True)
    name.fill("acme/other")
    name.press("Tab")
    expect(version.locator("option")).to_have_text(["latest", "1"])
    expect(version).to_have_value("")


def test_a_long_answer_stays_whole_when_it_is_compared(page: Page) -> None:
    count = 2100
    content = [{"token": f" t{place}", "logprob": -1.0, "bytes": [], "top_logprobs": []} for place in range(count)]
    text = "".join(one["token"] for one in content)
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": content}, "token_ids": [*range(count)]}
    chunk = {"prompt_token_ids": [7], "choices": [{**choice, "finish_reason": "length"}]}
    scored = [None, *({str(place): {"logprob": -2.0}} for place in range(count))]

    def answer(route: Route) -> None:
        route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", answer)
    page.route("**/v1/completions", lambda route: route.fulfill(json={"choices": [{"prompt_logprobs": scored}]}))
    ask = page.get_by_role("button", name="Ask both")
    ask.press("Enter")
    expect(page.get_by_text("Both have answered.")).to_be_attached()
    right = column(page, "Right")
    expect(right.get_by_text("The first 2,000 of 2,100 tokens have colours.")).to_be_visible()
    assert right.locator(".answer .text").text_content() == text
    expect(right.get_by_text("It is cut off at the most tokens.")).to_be_visible()
    # Who works with the keyboard goes on where they were.
    expect(ask).to_be_focused()


def test_what_an_operator_copies_is_for_the_same_tenant(keyed_server: Server, visit: Callable[..., Visitor]) -> None:
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    http.post("/v1/tenants", json={"name": "globex"}, headers=admin)
    made = {"name": "globex-only", "vector": VECTOR}
    http.post("/v1/adapters", json=made, headers=admin | {"openai-organization": "globex"})
    page = visit(keyed_server.url).open()
    page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    page.get_by_text("For operators").click()
    page.get_by_label("Act for the tenant").fill("globex")
    page.get_by_role("button", name="Use this key").click()
    page.goto("/console/#/playground?right=globex-only")
    page.get_by_label("Question").fill(QUESTION)
    for button, command in (("Copy as curl", ["bash", "-c"]), ("Copy as Python", [sys.executable, "-c"])):
        column(page, "Right").get_by_role("button", name=button).click()
        expect(page.get_by_text("Copied.").first).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()")
        assert ADMIN_KEY not in text
        environment = {**os.environ, "TINYLORA_API_KEY": ADMIN_KEY}
        told = subprocess.run([*command, text], capture_output=True, text=True, timeout=120, env=environment)
        assert told.returncode == 0 and re.search(r"\bw\d+", told.stdout) and "error" not in told.stdout, told
