"""Usage on the page is the usage of the API."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable

from playwright.sync_api import expect

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer
from tests.server.support.sampling_engine import NAME


def test_usage_by_adapter(server: Server, visit: Callable[..., Visitor]) -> None:
    server.http.post("/v1/adapters", json={"name": "acme/math", "vector": [1.5] * 13})
    page = visit(server.url).open("usage")
    expect(page.get_by_text("Nothing was used in this time.")).to_be_visible()
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "w20"}],
        "max_tokens": 4,
        "seed": 1,
        "temperature": 0,
    }
    for adapter in ({}, {"adapter": "acme/math"}, {"adapter": "acme/math"}):
        assert server.http.post("/v1/chat/completions", json={**body, **adapter}).status_code == 200
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row", name="acme/math@1")).to_be_visible()
    query = {"start_time": int(time.time()) - 86_400, "bucket_width": "1h", "group_by": "adapter", "limit": 48}
    told = server.http.get("/v1/usage", params=query).json()
    results = [result for bucket in told["data"] for result in bucket["results"]]
    # Each bar says when it was, over midnight and over a week.
    page.get_by_label("Period").select_option("7 days, by hour")
    page.get_by_label("By", exact=True).select_option("Tenant")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row", name="default")).to_be_visible()
    page.get_by_text("As a table").first.click()
    times = page.get_by_role("region", name="Tokens, as a table").locator("tbody th")
    expect(times).to_have_count(168)
    assert len(set(times.all_text_contents())) == 168
    page.reload()
    expect(page.get_by_label("Period")).to_have_value("7d")
    expect(page.get_by_role("row", name="default")).to_be_visible()
    page.get_by_label("By", exact=True).select_option("Adapter")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("row", name="acme/math@1")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    with open(download.value.path(), newline="") as file:
        rows = {row["Adapter"]: row for row in csv.DictReader(file)}
    assert {name: int(row["requests"]) for name, row in rows.items()} == {"base": 1, "acme/math@1": 2}
    assert {row["model"]: row["input_tokens"] for row in results} == {
        name: int(row["input_tokens"]) for name, row in rows.items()
    }


def test_adapters_of_one_name_and_several_tenants_are_not_taken_for_one(
    keyed_server: Server, visit: Callable[..., Visitor]
) -> None:
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    for times, tenant in enumerate(("acme", "globex"), 1):
        http.post("/v1/tenants", json={"name": tenant}, headers=admin)
        headers = admin | {"openai-organization": tenant}
        http.post("/v1/adapters", json={"name": "math", "vector": [1.5] * 13}, headers=headers)
        question = {"messages": [{"role": "user", "content": "w20"}], "max_tokens": 4, "seed": 1, "temperature": 0}
        body = {"model": NAME, "adapter": "math", **question}
        for _ in range(times):
            assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
    page = visit(keyed_server.url, key=ADMIN_KEY).open("usage?all=true")
    rows = page.get_by_role("region", name="Usage by adapter")
    expect(rows.get_by_role("row", name="acme: math@1").get_by_role("cell").first).to_have_text("1")
    expect(rows.get_by_role("row", name="globex: math@1").get_by_role("cell").first).to_have_text("2")
