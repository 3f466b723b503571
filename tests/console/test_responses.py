"""The console's pages of stored responses: the list, a conversation and its turns, cancelling, deleting."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import openai
import pytest
from playwright.sync_api import expect

from tests.chromium import Visitor
from tests.console.test_accessibility import assert_accessible
from tests.server.support.fake_engine import BASE, FakeEngine

Visit = Callable[..., Visitor]
TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


def test_a_conversation_is_read_and_deleted(visit: Visit, base_url: str, openai_client: openai.OpenAI) -> None:
    create = openai_client.responses.create
    first = create(
        model=BASE, input="Rain in <b>Bern</b>?", tools=[TOOL], tool_choice="required", instructions="Be brief. " * 600
    )
    [call] = first.output
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "wet"}  # type: ignore[union-attr]
    second = create(model=BASE, input=[output], previous_response_id=first.id)
    third = create(model=BASE, input="Sure?", previous_response_id=second.id)
    cut = create(model=BASE, input="one", max_output_tokens=2)
    page = visit(base_url).open("responses")
    rows = page.get_by_role("region", name="Responses").locator("tbody tr")
    expect(rows).to_have_count(4)
    page.get_by_label("State").select_option("incomplete")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(cut.id[-8:])
    # What is shown is in the address: the list is as it was when somebody comes back to it.
    rows.get_by_role("link", name=cut.id[-8:]).click()
    expect(page).to_have_title(re.compile(f"^Response …{cut.id[-8:]} "))
    page.go_back()
    expect(page.get_by_label("State")).to_have_value("incomplete")
    expect(rows).to_have_count(1)
    page.get_by_label("State").select_option("all")
    page.get_by_label("Model").fill(BASE)
    page.get_by_role("button", name="Show", exact=True).click()
    expect(rows).to_have_count(4)

    # By keyboard to a response, whose whole conversation is there, and back along its turns.
    page.get_by_role("rowheader").get_by_role("link", name=third.id[-8:]).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Response …{third.id[-8:]}")).to_be_focused()
    said = page.get_by_role("list", name="Input", exact=True).get_by_role("listitem")
    conversation = ["userRain in <b>Bern</b>?", "calls a functionweather({})", "the function gavewet"]
    expect(said).to_have_text([*conversation, f"assistant{second.output_text}", "userSure?"])
    expect(page.get_by_role("list", name="Output")).to_contain_text(third.output_text)
    page.get_by_role("button", name="Show the turns before").click()
    turns = page.get_by_role("list", name="Goes on from").get_by_role("listitem")
    expect(turns).to_have_count(2)
    expect(page.get_by_role("button", name="Show the turns before")).to_be_hidden()
    assert_accessible(page)
    turns.nth(1).get_by_role("link").click()
    page.get_by_role("button", name="Show all 6,000 characters").click()
    expect(page.get_by_text("Be brief. " * 600)).to_be_focused()
    assert_accessible(page)
    delete = page.get_by_role("button", name=f"Delete …{first.id[-8:]}")
    delete.click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(delete).to_be_focused()
    assert openai_client.responses.retrieve(first.id).id == first.id
    page.get_by_role("button", name=f"Delete …{first.id[-8:]}").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(rows).to_have_count(3)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(first.id)
    # A question is not left standing on the next page; the focus stays in the list when a row of it goes.
    page.get_by_role("button", name=f"Delete …{cut.id[-8:]}").click()
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.go_forward()
    page.get_by_role("button", name=f"Delete …{cut.id[-8:]}").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    expect(rows).to_have_count(2)
    expect(page.get_by_role("region", name="Responses")).to_be_focused()
    page.goto(f"/console/#/responses/{second.id}")
    page.get_by_role("button", name="Show the turns before").click()
    expect(turns).to_contain_text(["is deleted, or too old"])


def test_one_that_runs_is_watched_and_cancelled(
    visit: Visit, base_url: str, openai_client: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.hold = asyncio.Event()
    running = [openai_client.responses.create(model=BASE, input=f"{n}", background=True) for n in range(2)]
    page = visit(base_url).open("responses")
    rows = page.get_by_role("region", name="Responses").locator("tbody tr")
    expect(rows.filter(has_text="in progress")).to_have_count(2)
    rows.first.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Cancel the response").click()
    expect(rows.first).to_contain_text("cancelled")
    assert openai_client.responses.retrieve(running[1].id).status == "cancelled"
    page.goto(f"/console/#/responses/{running[0].id}")
    expect(page.get_by_text("There is no answer yet.")).to_be_visible()
    assert_accessible(page)
    openai_client.responses.cancel(running[0].id)
    expect(page.get_by_text("There is no answer.")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel …")).to_have_count(0)
