"""The key of a session, what it may, and the operator's pages."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.chromium import Visitor
from tests.console.conftest import Server
from tests.server.support.keyed import ADMIN_KEY, bearer


def test_a_key_is_asked_for_and_stays_in_its_tab(keyed_server: Server, visit: Callable[..., Visitor]) -> None:
    visitor = visit(keyed_server.url)
    page = visitor.open()
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("The API key is not valid")
    page.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_text("There is no adapter yet")).to_be_visible()
    page.reload()
    expect(page.get_by_text("There is no adapter yet")).to_be_visible()
    # Nowhere but in this tab.
    assert page.evaluate("[document.cookie, Object.keys(localStorage).length]") == ["", 0]
    other = visitor.open()
    expect(other.get_by_role("dialog", name="API key")).to_be_visible()
    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
    assert page.evaluate("Object.keys(sessionStorage).length") == 0


def test_the_operator_makes_a_tenant_a_key_and_revokes_it(keyed_server: Server, visit: Callable[..., Visitor]) -> None:
    http = keyed_server.http
    page = visit(keyed_server.url, key=ADMIN_KEY).open("tenants")
    page.get_by_text("New tenant").click()
    name = page.get_by_label("Name", exact=True)
    name.fill("default")
    page.get_by_label("Requests per minute").fill("600")
    page.get_by_role("button", name="Make the tenant").click()
    # Errors stand at the control that they are about, until it is changed.
    expect(name).to_have_accessible_description(re.compile("There is a tenant 'default' already"))
    expect(name).to_be_focused()
    name.fill("acme")
    expect(page.get_by_text("There is a tenant")).to_have_count(0)
    page.get_by_role("button", name="Make the tenant").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("acme")
    assert http.get("/v1/tenants/acme", headers=bearer(ADMIN_KEY)).json()["requests_per_minute"] == 600

    page.get_by_text("New key").click()
    page.get_by_label("Name", exact=True).fill("ci")
    page.get_by_label("infer:").uncheck()
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("group", name="It may")).to_contain_text("A key needs at least one scope.")
    page.get_by_label("infer:").check()
    page.get_by_label("adapters:").check()
    page.get_by_role("button", name="Make the key").click()
    page.keyboard.press("Escape")  # does not lose what is never shown again
    key = page.get_by_label("Copy it now").input_value()
    made = http.get("/v1/adapters", headers=bearer(key))
    assert made.status_code == 200
    page.get_by_role("button", name="I have it").click()
    expect(page.get_by_role("row", name="ci")).to_contain_text("infer, adapters")
    assert key not in page.content()

    # Names of any length leave the rest of the table in sight.
    http.post("/v1/tenants/acme/keys", json={"name": "x" * 128}, headers=bearer(ADMIN_KEY))
    page.reload()
    expect(page.get_by_role("button", name="Revoke xxx")).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Revoke ci").click()
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("row", name="ci")).to_contain_text("revoked")
    assert http.get("/v1/adapters", headers=bearer(key)).status_code == 401

    page.get_by_role("button", name="Disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.get_by_text(re.compile("^disabled"))).to_be_visible()
    assert http.get("/v1/tenants/acme", headers=bearer(ADMIN_KEY)).json()["disabled_at"] is not None


def test_quotas_that_somebody_else_changed_stay(keyed_server: Server, visit: Callable[..., Visitor]) -> None:
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    http.post("/v1/tenants", json={"name": "acme", "tokens_per_minute": 1000, "max_adapters": 5}, headers=admin)
    page = visit(keyed_server.url, key=ADMIN_KEY).open("tenants/acme")
    tokens = page.get_by_label("Tokens per minute").first  # the other is of a new key
    expect(tokens).to_have_value("1000")
    http.patch("/v1/tenants/acme", json={"tokens_per_minute": 50, "weight": 2}, headers=admin)
    page.get_by_label("Requests per minute").first.fill("60")
    page.get_by_label("Adapters", exact=True).fill("")
    page.get_by_role("button", name="Save quotas").click()
    expect(page.get_by_text("The quotas hold")).to_be_visible()
    expect(tokens).to_have_value("50")
    now = http.get("/v1/tenants/acme", headers=admin).json()
    names = ("requests_per_minute", "tokens_per_minute", "max_adapters", "weight")
    assert [now[name] for name in names] == [60, 50, None, 2]


def test_a_tenant_sees_its_own_and_why_not_the_rest(keyed_server: Server, visit: Callable[..., Visitor]) -> None:
    http, admin = keyed_server.http, bearer(ADMIN_KEY)
    keys = {}
    for tenant in ("acme", "globex"):
        http.post("/v1/tenants", json={"name": tenant}, headers=admin)
        body = {"name": "k", "scopes": ["infer", "adapters"]}
        keys[tenant] = http.post(f"/v1/tenants/{tenant}/keys", json=body, headers=admin).json()["key"]
        body = {"name": f"{tenant}-only", "vector": [0.1] * 13}
        http.post("/v1/adapters", json=body, headers=bearer(keys[tenant]))
    page = visit(keyed_server.url, key=keys["acme"]).open("adapters")
    expect(page.get_by_role("link", name="acme-only")).to_be_visible()
    expect(page.get_by_text("globex-only")).to_have_count(0)
    page.get_by_role("link", name="Tenants & keys").click()
    expect(page.get_by_text("Tenants and keys are the operator's.")).to_contain_text("scope 'admin'")
    expect(page.get_by_text("New tenant")).to_have_count(0)
    page.get_by_role("link", name="Usage").click()
    page.get_by_label("Of all tenants").check()
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert").filter(has_text="scope admin")).to_be_visible()
    # A key that may not list files may still look at batches, and is told why there is none to choose.
    page.get_by_role("link", name="Batches").click()
    expect(page.get_by_role("alert").filter(has_text="scope 'train'")).to_be_visible()
    expect(page.get_by_text("There is no batch yet")).to_be_visible()
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    # What was said on one page is not left standing on the next.
    page.get_by_role("link", name="Adapters").click()
    expect(page.get_by_role("heading", name="Adapters")).to_be_focused()
    expect(page.get_by_text("scope 'train'")).to_have_count(0)

    operator = visit(keyed_server.url).open("adapters")
    operator.get_by_label("Key", exact=True).fill(ADMIN_KEY)
    operator.get_by_text("For operators").click()
    operator.get_by_label("Act for the tenant").fill("globex")
    operator.get_by_role("button", name="Use this key").click()
    expect(operator.get_by_role("link", name="globex-only")).to_be_visible()


def test_on_a_server_without_keys_nobody_administers(server: Server, visit: Callable[..., Visitor]) -> None:
    page = visit(server.url).open("tenants")
    expect(page.get_by_text("Tenants and keys are the operator's.")).to_contain_text("TINYLORA_ADMIN_KEY")
