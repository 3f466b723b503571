"""The bench for graders, while rows are graded."""

from __future__ import annotations

from collections.abc import Callable

import openai
from playwright.sync_api import Route, expect

from tests.chromium import Visitor
from tests.server.support.training_kit import upload


def test_all_rows_are_graded_alike(visit: Callable[..., Visitor], base_url: str, openai_client: openai.OpenAI) -> None:
    file = upload(openai_client, name="sums.jsonl")
    page = visit(base_url).open(f"graders?file={file.id}")
    output = page.get_by_label("The model's output")
    output.fill("first")
    rows = page.get_by_role("region", name="Rows of a file")
    rows.get_by_label("Grade", exact=True).select_option("the output above")
    rows.get_by_label("Rows", exact=True).fill("3")
    held: list[Route] = []
    page.route("**/graders/run", lambda route: held.append(route), times=2)
    rows.get_by_role("button", name="Run on the rows").click()
    expect(rows.get_by_text("Rows are read …")).to_be_visible()
    while len(held) < 2:
        page.wait_for_timeout(100)
    output.fill("second")
    for route in held:
        route.continue_()
    graded = rows.get_by_role("region", name="Graded rows").locator("tbody tr")
    expect(graded).to_have_count(3)
    assert [row.get_by_role("cell").last.inner_text() for row in graded.all()] == ["first"] * 3
