"""The bench for graders, while rows are graded."""

from __future__ import annotations

import json
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


def test_numbers_of_a_row_are_graded_as_they_are_written(
    visit: Callable[..., Visitor], base_url: str, openai_client: openai.OpenAI
) -> None:
    exact = '{"whole": 2.0, "long": 9007199254740993, "small": 1e-7, "plain": 3}'
    row = json.dumps({"messages": [{"role": "user", "content": "?"}]})[:-1] + f', "item": {exact}}}'
    file = upload(openai_client, row.encode(), name="numbers.jsonl")
    page = visit(base_url).open(f"graders?file={file.id}")
    page.get_by_label("The row's fields").fill(exact)
    with page.expect_request("**/graders/run") as asked:
        page.get_by_role("button", name="Run", exact=True).click()
    assert f'"item":{exact.replace(" ", "")}' in str(asked.value.post_data)
    rows = page.get_by_role("region", name="Rows of a file")
    rows.get_by_label("Grade", exact=True).select_option("a field of the row")
    rows.get_by_label("Field", exact=True).fill("item")
    with page.expect_request("**/graders/run") as asked:
        rows.get_by_role("button", name="Run on the rows").click()
    sent = str(asked.value.post_data)
    assert f'"item":{{"item":{exact.replace(" ", "")}}}' in sent
    assert json.loads(sent)["model_sample"] == exact.replace(" ", "")
