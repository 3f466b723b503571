"""A gateway with an admin key, and tenants with keys made over its HTTP API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from server.core.settings import Settings
from server.db.database import Database
from server.db.tables import API_KEYS

ADMIN_KEY = "0d1f5c1b2a7e4c90b5e6d7a8"


def with_admin_key(settings: Settings, **more: Any) -> Settings:
    """The same settings, with keys."""
    return settings.model_copy(update={"admin_key": SecretStr(ADMIN_KEY), **more})


def bearer(key: str) -> dict[str, str]:
    """The headers of a request with this key."""
    return {"authorization": f"Bearer {key}"}


def expire(database: Database, key_id: str) -> None:
    """Make this the last second of a key, as if time had passed."""
    with database.write() as connection:
        connection.execute(API_KEYS.update().where(API_KEYS.c.id == key_id).values(expires_at=int(time.time())))


@dataclass(frozen=True)
class Operator:
    """Whoever has the admin key. `http` sends none by itself."""

    http: httpx.AsyncClient

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {**bearer(ADMIN_KEY), **request.pop("headers", {})}
        return await self.http.request(method, path, headers=headers, **request)

    async def make_tenant(self, name: str, **fields: Any) -> dict[str, Any]:
        response = await self.send("POST", "/v1/tenants", json={"name": name, **fields})
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def make_key(self, tenant: str, *scopes: str, **fields: Any) -> dict[str, Any]:
        """The key's object, with the key itself under "key"."""
        body = {"name": "of a test", "scopes": list(scopes) or ["infer"], **fields}
        response = await self.send("POST", f"/v1/tenants/{tenant}/keys", json=body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def new_key(self, tenant: str, *scopes: str) -> str:
        """A key of a new tenant."""
        await self.make_tenant(tenant)
        return str((await self.make_key(tenant, *scopes))["key"])
