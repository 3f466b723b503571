"""Tenants of the running server, made by its operator."""

from __future__ import annotations

import httpx


def new_tenant(http: httpx.Client, name: str) -> str:
    """Makes a tenant and returns a key of it, for everything but administration; `http` sends the admin's key."""
    made = http.post("/v1/tenants", json={"name": name})
    assert made.status_code == 201, made.text
    key = http.post(f"/v1/tenants/{name}/keys", json={"name": "test", "scopes": ["infer", "adapters", "train"]})
    assert key.status_code == 201, key.text
    found: str = key.json()["key"]
    return found
