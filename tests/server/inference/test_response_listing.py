"""GET /v1/responses: pages in both orders, by state and by model, of the tenant alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from server.db.response_tables import RESPONSES
from server.inference.responses.listing import list_responses
from tests.server.conftest import client_of
from tests.server.inference.test_responses import ended, official
from tests.server.support.acting import HEADER, act_as, new_tenant, principal
from tests.server.support.fake_engine import BASE, FakeEngine


async def listed(http: httpx.AsyncClient, tenant: str = "one", **query: object) -> list[dict[str, Any]]:
    """All pages, of two responses each."""
    found: list[dict[str, Any]] = []
    more, after = True, {}
    while more:
        answer = await http.get("/v1/responses", params={"limit": 2, **query, **after}, headers={HEADER: tenant})
        page = answer.raise_for_status().json()
        assert page["object"] == "list" and len(page["data"]) <= 2
        found += page["data"]
        more, after = page["has_more"], {"after": page["last_id"]}
    return found


async def test_a_tenants_responses_by_model_and_state(
    settings: Settings, engine: FakeEngine, database: Database
) -> None:
    app = create_app(settings, engine, database)
    act_as(app, {name: principal(new_tenant(database, name)) for name in ("one", "other")})
    async with client_of(app) as http:
        for _ in range(2):
            body = {"name": "acme/math", "vector": [0.1] * 13}
            (await http.post("/v1/adapters", json=body, headers={HEADER: "one"})).raise_for_status()
        client = official(http, "one")
        ids = []
        mixture = [{"adapter": "acme/math", "weight": 2}]
        for adapter in (None, "acme/math@1", "acme/math", {"vector": [0.2] * 13}, mixture):
            extra: Any = {} if adapter is None else {"adapter": adapter}
            ids.append((await client.responses.create(model=BASE, input="one", extra_body=extra)).id)
        second = await client.responses.create(model=BASE, input="two", previous_response_id=ids[0])
        engine.hold = asyncio.Event()
        of_adapter: Any = {"adapter": "acme/math"}
        waiting = await client.responses.create(model=BASE, input="one", background=True, extra_body=of_adapter)
        assert waiting.model == "acme/math@2"  # before it runs, too
        ids += [second.id, waiting.id]

        everything = await listed(http)
        assert [one["id"] for one in everything] == ids[::-1]
        assert [one["id"] for one in await listed(http, order="asc")] == ids
        assert [one["model"] for one in everything[2:]][::-1][:3] == [BASE, "acme/math@1", "acme/math@2"]
        assert everything[1]["previous_response_id"] == ids[0]
        assert everything[0] | {"bytes": 0, "created_at": 0} == {
            "id": waiting.id, "object": "response.summary", "status": everything[0]["status"], "model": "acme/math@2",
            "background": True, "streams": False, "previous_response_id": None, "bytes": 0, "created_at": 0,
        }  # fmt: skip
        assert everything[0]["status"] in ("queued", "in_progress")
        wanted = {
            "acme/math": [1, 2, 6], "acme/math@1": [1], "acme/math@2": [2, 6], "acme/math@3": [], "inline": [3],
            "mix": [4], BASE: [0, 5], "acme": [], everything[3]["model"]: [3],
        }  # fmt: skip
        for model, places in wanted.items():
            assert [one["id"] for one in await listed(http, model=model, order="asc")] == [ids[at] for at in places]
        engine.hold.set()
        assert (await ended(client, waiting.id)).status == "completed"
        assert [one["id"] for one in await listed(http, status="completed", order="asc")] == ids
        assert await listed(http, status="failed") == [] == await listed(http, "other")

        # With an id of another tenant's a page is as with any id of that time.
        assert await listed(http, "other", after=ids[3]) == []
        for query in ({"after": "resp_x"}, {"limit": 0}, {"limit": 101}, {"status": "done"}, {"order": "up"}):
            [(name, value)] = query.items()
            answer = await http.get("/v1/responses", params={name: str(value)}, headers={HEADER: "one"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
        for name, value in (("model", "a\0b"), ("model", "x" * 256), ("modle", "x")):
            answer = await http.get("/v1/responses", params={name: value}, headers={HEADER: "one"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, "ix_responses_tenant_id_id"),
        ({"status": "failed"}, "ix_responses_tenant_id_status_id"),
        ({"model": "acme/math@1"}, "ix_responses_tenant_id_model_name_id"),
    ],
)
def test_a_page_is_read_by_an_index(app_database: Database, wanted: dict[str, str], index: str) -> None:
    asked: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        asked.append(connection.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchone()[3])

    with app_database.read() as connection:
        sa.event.listen(connection, "before_cursor_execute", hear)
        filters: Any = {"status": None, "model": None, **wanted}
        list_responses(connection, 1, after=f"resp_{'f' * 28}", limit=20, order="desc", **filters)
    [plan] = asked
    assert f"SEARCH {RESPONSES.name} USING INDEX {index} " in plan


async def test_what_a_client_calls_a_model_may_be_anything(app: FastAPI) -> None:
    async with client_of(app) as http:
        body: Any = {"input": "one", "model": "a\0b" * 200, "background": True}
        assert (await http.post("/v1/responses", json=body)).status_code in (200, 404)
        assert (await http.get("/v1/responses")).status_code == 200
