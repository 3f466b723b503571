"""Files: answers and uploads that take long, while something else is asked for, or another key is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import openai
from playwright.sync_api import Error, Route, expect

from tests.chromium import Visitor, drop
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer
from tests.server.support.training_kit import ROWS, upload

Visit = Callable[..., Visitor]


def test_lines_are_those_of_the_method_chosen_last(visit: Visit, base_url: str, openai_client: openai.OpenAI) -> None:
    file = upload(openai_client, name="sums.jsonl")
    page = visit(base_url).open(f"files/{file.id}")
    lines = page.get_by_role("list", name="Lines").get_by_role("listitem")
    expect(lines).to_have_count(10)
    held: list[Route] = []
    page.route("**/lines?method=supervised&**", lambda route: held.append(route))
    ended: list[str] = []
    page.on("requestfailed", lambda request: ended.append(request.url))
    method = page.get_by_label("checked for")
    method.select_option("supervised")
    method.select_option("evolution")
    expect(page.get_by_text("All 20 lines can be trained on (evolution).")).to_be_visible()
    # Neither the lines nor the check for the other method are asked for any more.
    expect(lines).to_have_count(10)
    assert len(ended) == len(held) == 2
    # And what cannot be read is said.
    page.unroute_all(behavior="ignoreErrors")
    page.route("**/lines?method=supervised&limit=10&**", lambda route: route.abort(), times=1)
    method.select_option("supervised")
    expect(page.get_by_role("alert").filter(has_text="The server cannot be reached")).to_be_visible()
    page.get_by_role("button", name="Show more lines").click()
    expect(lines.first).to_contain_text("the last message is the user's")


def test_an_upload_that_waits_is_stopped_at_once(visit: Visit, base_url: str) -> None:
    page = visit(base_url).open("files")
    held: list[Route] = []
    page.route("**/v1/files", lambda route: held.append(route))
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        drop(page, name, ROWS)
    waiting = page.get_by_role("list", name="Uploads").get_by_role("listitem").filter(has_text="c.jsonl")
    expect(waiting).to_contain_text("waits")
    waiting.get_by_role("button", name="Stop").click()
    expect(waiting).to_contain_text("The upload was stopped.")
    assert len(held) == 2


def test_no_upload_goes_on_with_somebody_elses_key(keyed_server: Server, visit: Visit) -> None:
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    keys = {}
    for tenant in ("acme", "globex"):
        http.post("/v1/tenants", json={"name": tenant}, headers=admin)
        made = http.post(f"/v1/tenants/{tenant}/keys", json={"name": "k", "scopes": ["train"]}, headers=admin)
        keys[tenant] = made.json()["key"]
    page = visit(keyed_server.url, key=keys["acme"]).open("files")
    expect(page.get_by_text("There is no file yet.")).to_be_visible()
    held: list[Route] = []
    page.route("**/v1/files", lambda route: held.append(route), times=2)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        drop(page, name, ROWS)
    expect(page.get_by_text("waits", exact=True).first).to_be_visible()
    while len(held) < 2:
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Change key").click()
    page.get_by_label("Key", exact=True).fill(keys["globex"])
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("There is no file yet.")).to_be_visible()
    for route in held:
        with contextlib.suppress(Error):  # its request has ended
            route.continue_()
    expect(page.get_by_text("c.jsonl was not stored: The upload has ended with its key.")).to_be_visible()
    assert http.get("/v1/files", headers=bearer(keys["globex"])).json()["data"] == []


def test_a_file_dropped_beside_its_place_opens_nothing(visit: Visit, base_url: str) -> None:
    page = visit(base_url).open("files")
    expect(page.get_by_text("There is no file yet.")).to_be_visible()
    prevented = page.evaluate(
        """["dragover", "drop"].flatMap((name) => ["a file", null].map((text) => {
            const dataTransfer = new DataTransfer();
            if (text) dataTransfer.items.add(new File(["{}"], "a.jsonl"));
            else dataTransfer.setData("text/plain", "words");
            const event = new DragEvent(name, {bubbles: true, cancelable: true, dataTransfer});
            document.querySelector("h1").dispatchEvent(event);
            return event.defaultPrevented;
        }))"""
    )
    assert prevented == [True, False, True, False]  # words may be dropped into what one writes in
