"""The console's page of batches: made from a dropped file, watched to its end, its answers read."""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
from playwright.sync_api import expect

from tests.chromium import Visitor, drop
from tests.console.test_accessibility import assert_accessible
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.training_kit import upload

Visit = Callable[..., Visitor]


def line(name: str, url: str = "/v1/chat/completions") -> bytes:
    body = {"model": BASE, "messages": [{"role": "user", "content": "3 + 4?"}]}
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def test_a_batch_is_made_watched_and_its_answers_read(
    visit: Visit, base_url: str, openai_client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.base_answer = "seven"
    page = visit(base_url).open("batches")
    page.get_by_text("Upload a file", exact=True).click()
    drop(page, "requests.jsonl", line("a") + line("b"))
    expect(page.get_by_label("File with the requests")).not_to_have_value("")
    page.get_by_role("button", name="Make the batch").click()
    row = page.get_by_role("row", name="batch_")
    expect(row).to_contain_text("completed")
    expect(row).to_contain_text("2 of 2")
    (batch,) = openai_client.batches.list()
    assert (batch.endpoint, batch.status) == ("/v1/chat/completions", "completed")
    row.get_by_role("link", name="answers").click()
    lines = page.get_by_role("list", name="Lines").get_by_role("listitem")
    expect(lines).to_have_count(2)
    expect(lines.first).to_contain_text("seven")
    expect(page.get_by_role("link", name="Train on it")).to_have_count(0)

    # What is wrong with a file is said with its line.
    wrong = upload(openai_client, line("a") + b"{}\n", "batch")
    openai_client.batches.create(input_file_id=wrong.id, endpoint="/v1/chat/completions", completion_window="24h")
    page.goto("/console/#/batches")
    expect(page.get_by_role("row", name="failed")).to_contain_text("Line 2")
    assert_accessible(page)
