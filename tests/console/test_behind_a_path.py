"""The console behind a proxy that has the server below a path of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect
from starlette.types import ASGIApp, Receive, Scope, Send

from adapters.factors.factors import Factors
from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.chromium import Visitor
from tests.console.chatting_engine import ChattingEngine
from tests.server.support.served import served

PREFIX = "/tools/tinylora"


class TakesThePathAway:
    """What a proxy does of which the server is told nothing. Whatever is asked for elsewhere is not there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(PREFIX) if scope["path"].startswith(f"{PREFIX}/") else "/elsewhere"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)


def test_pages_and_requests_stay_below_the_path(
    chatting_settings: Settings, model_path: Path, model_factors: Factors, visit: Callable[..., Visitor]
) -> None:
    database = Database(chatting_settings.database_url)
    with served(
        TakesThePathAway(create_app(chatting_settings, ChattingEngine(model_path, model_factors), database))
    ) as url:
        page = visit(url).context.new_page()
        page.goto(f"{url}{PREFIX}/console")
        expect(page.get_by_text("There is no adapter yet")).to_be_visible()
        assert page.url == f"{url}{PREFIX}/console/"
        page.get_by_text("Numbers instead of a file").click()
        page.get_by_label("Name", exact=True).fill("a")
        page.get_by_label("Numbers", exact=True).fill(" ".join(["0.5"] * 13))
        page.get_by_role("button", name="Upload").click()
        page.get_by_role("link", name="a", exact=True).click()
        expect(page.locator(".chart rect")).to_have_count(13)
    database.close()
