"""Pages that look at the server again and again do not while nobody looks at them."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.chromium import Visitor
from tests.console.conftest import Server

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


def test_a_hidden_tab_asks_for_nothing(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server.url)
    page = visitor.context.new_page()
    page.clock.install()  # the page's timers go when the test says so
    asked: list[str] = []
    page.goto("/console/#/responses")
    expect(page.get_by_text("There is no stored response yet")).to_be_visible()
    page.clock.pause_at(page.evaluate("Date.now()") + 60_000)
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_response("**/v1/responses?*"):
        page.clock.run_for(LOOK_MS)
    show(page, "hidden")
    page.clock.run_for(LOOK_MS)
    before = len(asked)
    for _ in range(10):
        page.clock.run_for(LOOK_MS)
    assert len(asked) == before > 0
    with page.expect_response("**/v1/responses?*"):
        show(page, "visible")
    with page.expect_response("**/v1/responses?*"):
        page.clock.run_for(LOOK_MS)
