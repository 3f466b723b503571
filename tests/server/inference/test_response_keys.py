"""Responses that wait in the background while the key that made them ends."""

from __future__ import annotations

import asyncio

import openai
import pytest

from server.api.app import create_app
from server.core.settings import Settings
from server.db.database import Database
from tests.server.conftest import client_of
from tests.server.inference.test_response_outage import occupy
from tests.server.inference.test_responses import ended, official
from tests.server.support.fake_engine import BASE, FakeEngine
from tests.server.support.keyed import ADMIN_KEY, Operator, expire, with_admin_key


@pytest.mark.parametrize("way", ["revoked", "expired", "disabled"])
async def test_what_waits_is_not_generated_for_a_key_that_is_ended(
    settings: Settings, engine: FakeEngine, app_database: Database, way: str
) -> None:
    async with client_of(
        create_app(with_admin_key(settings, max_tenant_running_requests=4), engine, app_database)
    ) as http:
        operator = Operator(http)
        await operator.make_tenant("acme")
        old, new = [await operator.make_key("acme") for _ in range(2)]
        of_old, of_new, of_operator = [
            official(http).with_options(api_key=key) for key in (old["key"], new["key"], ADMIN_KEY)
        ]
        others = await occupy(of_operator, engine)
        made = [await client.responses.create(model=BASE, input="one", background=True) for client in (of_old, of_new)]
        if way == "revoked":
            await operator.send("POST", f"/v1/tenants/acme/keys/{old['id']}/revoke")
        elif way == "expired":
            expire(app_database, old["id"])
        else:
            await operator.send("PATCH", "/v1/tenants/acme", json={"disabled": True})
        assert engine.hold is not None
        engine.hold.set()
        await asyncio.gather(*others)
        reader = of_operator.with_options(organization="acme")
        one, other = [await ended(reader, response.id) for response in made]
        assert (one.status, one.output, one.error.code) == ("failed", [], "api_key_revoked")
        assert "Make it again with a key that is valid" in one.error.message
        assert other.status == ("failed" if way == "disabled" else "completed")
        assert len(engine.asked) == (0 if way == "disabled" else 1)
        with pytest.raises(openai.AuthenticationError):
            await of_old.responses.retrieve(one.id)
