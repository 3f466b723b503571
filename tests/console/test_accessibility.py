"""Every page by axe-core's rules, light and dark; by keyboard; and on a phone, where nothing is wider than it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer

# A page, and what is seen when it is there.
PAGES = [
    ("adapters", "acme/math"),
    ("adapters/acme%2Fmath", "Aliases"),
    ("playground?left=acme/math", "Ask both"),
    ("jobs", "There is no job yet"),
    ("jobs/new", "Create the job"),
    ("graders", "On one sample"),
    ("files", "There is no file yet"),
    ("batches", "There is no batch yet"),
    ("responses", "There is no stored response yet"),
    ("usage", "Nothing was used"),
    ("tenants", "New tenant"),
    ("tenants/acme", "Keys"),
]


@pytest.fixture
def filled(keyed_server: Server) -> Server:
    """With something on every page."""
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    for number in (0.1, 0.2):
        http.post("/v1/adapters", json={"name": "acme/math", "vector": [number, -number] * 6 + [1]}, headers=admin)
    http.put("/v1/adapters/acme/math/aliases/prod", json={"version": 1}, headers=admin)
    http.post("/v1/tenants", json={"name": "acme"}, headers=admin)
    http.post("/v1/tenants/acme/keys", json={"name": "ci"}, headers=admin)
    return keyed_server


def assert_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(dark: bool, filled: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(filled.url, dark=dark, key=ADMIN_KEY)
    page = visitor.open()
    for address, seen in PAGES:
        page.goto(f"/console/#/{address}")
        expect(page.get_by_text(seen).first).to_be_visible()
        page.evaluate("document.querySelectorAll('main details').forEach((details) => (details.open = true))")
        assert_accessible(page)
    page.get_by_role("button", name="Change key").click()
    assert_accessible(page)


def test_no_page_is_wider_than_a_phone(filled: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(filled.url, phone=True, key=ADMIN_KEY).open()
    for address, seen in PAGES:
        page.goto(f"/console/#/{address}")
        expect(page.get_by_text(seen).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address


def test_by_keyboard_alone(filled: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(filled.url, key=ADMIN_KEY).open()
    expect(page.get_by_role("link", name="acme/math")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="acme/math")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Adapters", exact=True)).to_be_focused()
    page.keyboard.press("Shift+Tab")
    while page.evaluate("document.activeElement.textContent") != "Playground":
        page.keyboard.press("Shift+Tab")
    expect(page.get_by_role("link", name="Playground")).to_be_focused()
    page.keyboard.press("Enter")
    # A screen reader goes on at the new page's heading.
    expect(page.get_by_role("heading", name="Playground")).to_be_focused()
    expect(page.get_by_role("link", name="Playground")).to_have_attribute("aria-current", "page")
    header = page.get_by_role("banner").bounding_box()
    assert header is not None and header["height"] < 70  # one line of them
    change = page.get_by_role("button", name="Change key")
    change.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(change).to_be_focused()


def test_an_address_without_a_page_says_so(filled: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(filled.url, key=ADMIN_KEY).open("nothing/here")
    expect(page.get_by_role("alert").filter(has_text="There is no such page")).to_be_visible()
    expect(page.get_by_role("heading", name="No such page")).to_be_focused()
    page.goto("/console/#/responses/resp_none")
    expect(page.get_by_role("alert").filter(has_text="There is no response")).to_be_visible()
    expect(page).to_have_title(re.compile("^Responses "))
    assert_accessible(page)


def test_a_page_that_could_not_be_fetched_comes_when_the_server_is_back(
    filled: Server, visit: Callable[..., Visitor]
) -> None:
    page = visit(filled.url, key=ADMIN_KEY).open("adapters")
    expect(page.get_by_role("link", name="acme/math")).to_be_visible()
    page.context.set_offline(True)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("alert").filter(has_text="The server cannot be reached.")).to_be_visible()
    expect(page.get_by_role("heading", name="Usage")).to_be_focused()
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Nothing was used")).to_be_visible()
