"""Pages that look at the server again and again do not while nobody looks at them."""

from __future__ import annotations

import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer

LOOK_MS = 4000  # more than any page's


def show(page: Page, state: str) -> None:
    """Have the tab be "hidden" or "visible", as a browser says it."""
    page.evaluate(
        """(state) => {
            Object.defineProperty(document, "hidden", {value: state === "hidden", configurable: true});
            Object.defineProperty(document, "visibilityState", {value: state, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )


def goes_on(page: Page, asked: list[str]) -> bool:
    """Whether the page asks again when its clock goes on; it sets a timer only when an answer has come."""
    before, until = len(asked), time.monotonic() + 30
    while len(asked) == before and time.monotonic() < until:
        page.clock.run_for(LOOK_MS)
    return len(asked) > before


def test_a_hidden_tab_asks_for_nothing(server: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).context.new_page()
    page.clock.install()  # the page's timers go when the test says so
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/console/#/responses")
    expect(page.get_by_text("There is no stored response yet")).to_be_visible()
    page.clock.pause_at(page.evaluate("Date.now()") + 60_000)
    assert goes_on(page, asked)
    show(page, "hidden")
    page.clock.run_for(LOOK_MS)
    before = len(asked)
    for _ in range(10):
        page.clock.run_for(LOOK_MS)
    assert len(asked) == before
    show(page, "visible")
    assert goes_on(page, asked)
    assert goes_on(page, asked)


def test_a_key_that_is_revoked_meanwhile_is_asked_with_no_more(
    keyed_server: Server, visit: Callable[..., Visitor]
) -> None:
    http, keys = keyed_server.http, "/v1/tenants/default/keys"
    key = http.post(keys, json={"name": "k", "scopes": ["infer"]}, headers=bearer(ADMIN_KEY)).json()
    page = visit(keyed_server.url).context.new_page()
    page.clock.install()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/console/#/responses")
    page.get_by_label("Key", exact=True).fill(key["key"])
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("There is no stored response yet")).to_be_visible()
    http.post(f"{keys}/{key['id']}/revoke", headers=bearer(ADMIN_KEY))
    assert goes_on(page, asked)
    expect(page.get_by_text("Enter another key to go on.")).to_be_visible()
    before = len(asked)
    for _ in range(10):
        page.clock.run_for(LOOK_MS)
    assert len(asked) == before
