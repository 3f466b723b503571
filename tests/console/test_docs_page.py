"""/docs in a browser."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.chromium import Visitor
from tests.console.conftest import Server


def test_a_route_is_found_and_tried_with_nothing_from_elsewhere(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor, asked = visit(server.url), list[str]()
    page = visitor.tab()
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/docs")
    page.locator('[data-path="/v1/limits"]').first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert all(url.startswith((f"{server.url}/", "data:")) for url in asked)
    assert not visitor.complaints
