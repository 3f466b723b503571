"""The web console on a real engine: from a dropped file to two answers compared token by token, and back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.chromium import Visitor, drop
from tests.e2e.running import ADMIN_KEY, ServerProcess
from tests.e2e.talking import QUESTION, Talk, random_vector, vector_bytes

NAME = "console/strong"


def test_from_a_dropped_file_to_two_answers(server: ServerProcess, talk: Talk, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url, key=ADMIN_KEY).open("adapters")
    drop(page, "strong.bin", vector_bytes(random_vector(7, 0.4)))
    page.get_by_label("Name", exact=True).fill(NAME)
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("link", name=NAME).click()
    page.get_by_role("link", name="Try it in the playground").click()

    page.get_by_label("Question").fill(QUESTION)
    page.get_by_label("Most tokens").fill("8")
    page.get_by_role("button", name="Ask both").click()
    columns = {}
    for label in ("Left", "Right"):
        side = page.get_by_role("region", name=label, exact=True)
        expect(side.get_by_text(re.compile(r"^First token after"))).to_be_visible()
        side.get_by_text("Tokens as a table").click()
        rows = side.get_by_role("table").get_by_role("row").all()[1:]
        columns[label] = [[float(cell) for cell in row.get_by_role("cell").all_inner_texts()] for row in rows]
        assert len(rows) == 8
    # Each column says of its own tokens what the API says of them. The other model finds them less likely,
    # since both answers are greedy and differ.
    for label, adapter in (("Left", None), ("Right", NAME)):
        own = [cells[0] for cells in columns[label]]
        assert own == pytest.approx(talk.greedy(adapter).logprobs, abs=0.02)
        assert sum(cells[2] for cells in columns[label]) > 0.5
