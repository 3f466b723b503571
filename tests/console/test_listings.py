"""Listings that change while they are looked at: no row is missing, none stays that is gone, and none is of before."""

from __future__ import annotations

from collections.abc import Callable

import openai
from playwright.sync_api import Page, Route, expect

from tests.chromium import Visitor
from tests.console.test_batches import line
from tests.console.test_polling import LOOK_MS
from tests.server.support.fake_engine import BASE
from tests.server.support.training_kit import upload

Visit = Callable[..., Visitor]


def show_all(page: Page) -> None:
    more = page.locator("button", has_text="Show more")
    while more.is_visible():
        more.click()
        expect(more).not_to_have_attribute("aria-disabled", "true")


def test_what_came_since_is_whole_however_much_it_is(visit: Visit, base_url: str, openai_client: openai.OpenAI) -> None:
    def make(count: int) -> None:
        for _ in range(count):
            openai_client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )

    file = upload(openai_client, line("a"), "batch")
    make(3)
    page = visit(base_url).open("batches")
    ids = page.get_by_role("region", name="Batches").get_by_role("rowheader")
    expect(ids).to_have_count(3)
    # More than a page of them; then few, when more than a page is shown.
    for count, shown in ((25, 20), (2, 30)):
        make(count)
        newest = openai_client.batches.list(limit=1).data[0].id
        expect(ids.first).to_have_text(newest)
        assert ids.count() == shown
        show_all(page)
        assert ids.all_inner_texts() == [batch.id for batch in openai_client.batches.list(limit=100)]


def test_a_row_that_is_deleted_goes_wherever_it_is(visit: Visit, base_url: str, openai_client: openai.OpenAI) -> None:
    files = [upload(openai_client, name=f"{number}.jsonl") for number in range(52)]
    page = visit(base_url).open("files")
    names = page.get_by_role("region", name="Files").get_by_role("rowheader")
    expect(names).to_have_count(50)
    show_all(page)
    expect(names).to_have_count(52)
    page.get_by_role("button", name="Delete 0.jsonl").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(names).to_have_count(51)
    assert names.all_inner_texts() == [file.filename for file in reversed(files[1:])]


def test_an_answer_that_took_long_does_not_undo_a_newer_one(
    visit: Visit, base_url: str, openai_client: openai.OpenAI
) -> None:
    openai_client.responses.create(model=BASE, input="one")
    cut = openai_client.responses.create(model=BASE, input="one", max_output_tokens=2)
    page = visit(base_url).context.new_page()
    page.clock.install()
    page.goto("/console/#/responses")
    rows = page.get_by_role("region", name="Responses").locator("tbody tr")
    expect(rows).to_have_count(2)
    page.clock.pause_at(page.evaluate("Date.now()") + 60_000)

    # The page looks again, and before that is answered it is asked for those that were cut off.
    def is_look(url: str) -> bool:
        return url.endswith("/v1/responses?limit=50")

    held: list[Route] = []
    page.route(is_look, lambda route: held.append(route))
    while not held:
        page.clock.run_for(LOOK_MS)
    page.get_by_label("State").select_option("incomplete")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_timeout(300)
    with page.expect_response(lambda response: is_look(response.url)) as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("fetch('icon.svg').then((answer) => answer.text())")  # so the page has had time to show it
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(cut.id[-8:])
