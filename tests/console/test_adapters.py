"""The pages of adapters, as somebody with a browser uses them; what the server then has is read without a browser."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Route, expect

from tests.chromium import Visitor, drop
from tests.console.conftest import Server

OLD = struct.pack("<13H", *[0x3E4D] * 13)  # bfloat16 numbers near 0.2
NEW = struct.pack("<13H", *[0x3E4D] * 12, 0xBF00)  # the last one is -0.5


def test_from_the_first_upload_to_a_rollback(server: Server, visit: Callable[..., Visitor], tmp_path: Path) -> None:
    page = visit(server.url).open()
    expect(page.get_by_text("There is no adapter yet")).to_be_visible()

    drop(page, "acme math.bin", OLD)
    expect(page.get_by_label("Name", exact=True)).to_have_value("acme-math")
    page.get_by_label("Name", exact=True).fill("acme/math")
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("Stored as acme/math@1.")).to_be_visible()
    assert server.http.get("/v1/adapters/acme/math/vector").content == OLD

    page.get_by_role("link", name="acme/math").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("acme/math")
    expect(page.locator(".chart rect")).to_have_count(13)

    (tmp_path / "new.bin").write_bytes(NEW)
    page.get_by_label("Files").set_input_files(tmp_path / "new.bin")
    page.get_by_role("button", name="Upload a version").click()
    expect(page.get_by_text("Stored as acme/math@2.")).to_be_visible()
    page.get_by_label("Compare with").select_option("version 1")
    # 0.2001953125 in bfloat16: only the last of 13 numbers differs.
    expect(page.get_by_text("Length of the difference: 0.7002")).to_be_visible()

    page.get_by_role("button", name="New alias").click()
    page.get_by_label("Name", exact=True).fill("prod")
    page.get_by_role("dialog").get_by_label("Version").select_option("1")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_text("acme/math@prod is now version 1.")).to_be_visible()
    # What is wrong is said in the dialog: behind it nothing can be read.
    page.get_by_role("button", name="New alias").click()
    page.get_by_label("Name", exact=True).fill("prod")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(re.compile("There is an alias prod already"))
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Move prod", exact=True).click()
    alias = "/v1/adapters/acme/math/aliases/prod"
    server.http.put(alias, json={"versions": {"1": 1, "2": 1}})
    page.get_by_role("button", name="Move it").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("moved by somebody else meanwhile")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    server.http.put(alias, json={"version": 1})
    page.get_by_role("button", name="Move prod", exact=True).click()
    page.get_by_role("dialog").get_by_label("Version").select_option("2")
    page.get_by_role("button", name="Move it").click()
    expect(page.get_by_role("row", name="prod version 2")).to_be_visible()
    assert server.http.get("/v1/adapters/acme/math@prod/vector").content == NEW
    # Of two who roll back what they see, the second does not bring back the version that the first took away.
    server.http.post(f"{alias}/rollback")
    page.get_by_role("button", name="Roll back prod").click()
    expect(page.get_by_role("alert").get_by_text("prod was moved by somebody else meanwhile")).to_be_visible()
    expect(page.get_by_role("row", name="prod version 1")).to_be_visible()
    assert server.http.get(alias).json()["versions"] == {"1": 1.0}
    server.http.put(alias, json={"version": 2})
    page.get_by_role("button", name="Remove prod").click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.get_by_role("row", name="prod version 2")).to_be_visible()
    assert server.http.get(alias).json()["versions"] == {"2": 1.0}
    page.get_by_role("button", name="Roll back prod").click()
    expect(page.get_by_role("row", name="prod version 1")).to_be_visible()
    assert server.http.get("/v1/adapters/acme/math@prod/vector").content == OLD

    with page.expect_download() as download:
        page.get_by_role("button", name="Download the bytes of version 2").click()
    assert Path(download.value.path()).read_bytes() == NEW
    assert download.value.suggested_filename == "acme-math@2.bin"


def test_a_deletion_asks_first_and_is_taken_back(server: Server, visit: Callable[..., Visitor]) -> None:
    for content in (OLD, NEW):
        server.http.post("/v1/adapters?name=a", content=content, headers={"content-type": "application/octet-stream"})
    page = visit(server.url).open("adapters/a")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert server.http.get("/v1/adapters/a").status_code == 200
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete all versions").click()
    expect(page.get_by_text("Deleted 2 versions of a.")).to_be_visible()
    assert server.http.get("/v1/adapters/a").status_code == 404
    page.get_by_role("button", name="Restore version 1").click()
    expect(page.get_by_text("Restored a@1.")).to_be_visible()
    assert server.http.get("/v1/adapters/a/vector").content == OLD


def test_what_the_server_refuses_is_said_in_its_words(server: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).open()
    page.get_by_label("Name", exact=True).fill("a")
    drop(page, "short.bin", OLD[:-2])
    page.get_by_role("button", name="Upload").click()
    refused = server.http.post(
        "/v1/adapters?name=a", content=OLD[:-2], headers={"content-type": "application/octet-stream"}
    )
    expect(page.get_by_role("alert")).to_contain_text(refused.json()["error"]["message"])


def test_a_name_in_an_address_leads_to_no_other_route(server: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).open("adapters/..%2F..%2Fhealth")
    expect(page.get_by_text("no name has a part of dots alone")).to_be_visible()


def test_text_of_tenants_is_text(server: Server, visit: Callable[..., Visitor]) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"
    body = {"name": "a", "vector": [0.1] * 13, "metadata": {"<i>key</i>": markup}}
    assert server.http.post("/v1/adapters", json=body).status_code == 201
    page = visit(server.url).open("adapters/a")
    expect(page.get_by_text(markup)).to_be_visible()
    expect(page.locator("main img, main b, main i")).to_have_count(0)


def test_the_numbers_shown_are_of_the_version_chosen_last(server: Server, visit: Callable[..., Visitor]) -> None:
    for number in (0.1, 0.2, 0.3):
        server.http.post("/v1/adapters", json={"name": "a", "vector": [number] * 13})
    page = visit(server.url).open("adapters/a")
    drawn = page.get_by_role("figure").locator("figcaption")
    expect(drawn).to_have_text("Version 3 of a")
    held: list[Route] = []
    page.route("**/a%401/vector?*", lambda route: held.append(route))
    page.get_by_label("Show", exact=True).select_option("version 1")
    page.get_by_label("Show", exact=True).select_option("version 2")
    expect(drawn).to_have_text("Version 2 of a")
    with page.expect_response("**/a%401/vector?*") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("fetch('icon.svg').then((answer) => answer.text())")  # so the page has had time to show it
    expect(drawn).to_have_text("Version 2 of a")


def test_an_alias_is_moved_to_any_version_and_said_to_be_though_its_dialog_is_closed(
    server: Server, visit: Callable[..., Visitor]
) -> None:
    for number in range(52):
        server.http.post("/v1/adapters", json={"name": "a", "vector": [number / 100] * 13})
    page = visit(server.url).open("adapters/a")
    expect(page.get_by_role("region", name="Versions").locator("tbody tr")).to_have_count(50)
    page.get_by_role("button", name="New alias").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("prod")
    dialog.get_by_label("Version").select_option("1")
    # Shares of one version add up.
    dialog.get_by_role("button", name="Another version").click()
    dialog.get_by_role("button", name="Another version").click()
    dialog.get_by_label("Version").nth(2).select_option("1")
    dialog.get_by_label("Share").nth(2).fill("2")
    held: list[Route] = []
    page.route("**/aliases/prod", lambda route: held.append(route))
    dialog.get_by_role("button", name="Make it").click()
    expect(dialog.locator("form")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    held[0].continue_()
    expect(page.get_by_text("a@prod is now version 1 (75 %), version 52 (25 %).")).to_be_visible()
    expect(page.get_by_role("row", name="prod version 1")).to_be_visible()


def test_the_address_says_what_is_shown(server: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).open("adapters?prefix=zzz")
    expect(page.get_by_text("No adapter has a name that begins so.")).to_be_visible()
    drop(page, "a.bin", OLD)
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("link", name="a", exact=True)).to_be_visible()
    assert page.url.endswith("#/adapters")


def test_what_is_no_answer_of_the_server_is_said_in_words(server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(server.url)
    visitor.context.route("**/v1/adapters?*", lambda route: route.fulfill(content_type="text/html", body="<p>Sign in"))
    page = visitor.open("adapters")
    expect(page.get_by_role("alert").filter(has_text="a proxy before the server put something else")).to_be_visible()
