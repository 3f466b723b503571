"""Requests of several tenants without keys: the header `x-act-as` names who a request is from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.core.principal import DEFAULT_TENANT, KeyScope, Principal, Tenant
from server.core.request_state import state_of
from server.db.database import Database
from server.db.tables import TENANTS
from server.inference.middleware import InferenceMiddleware

HEADER = "x-act-as"


class ActAs:
    """Pure ASGI middleware, put where the principal is known and nothing has used it."""

    def __init__(self, app: ASGIApp, *, principals: Mapping[str, Principal]) -> None:
        self._app = app
        self._principals = principals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", [])).get(HEADER.encode())
        if name is not None:
            state_of(scope).principal = self._principals[name.decode()]
        await self._app(scope, receive, send)


def act_as(app: FastAPI, principals: Mapping[str, Principal], before: type[Any] = InferenceMiddleware) -> None:
    """Make requests to `app` those of `principals`, as the middleware `before` and those after it see them."""
    position = [middleware.cls for middleware in app.user_middleware].index(before)
    app.user_middleware.insert(position, Middleware(ActAs, principals=principals))


def new_tenant(database: Database, name: str) -> Tenant:
    """A tenant with nothing."""
    values = {"name": name, "created_at": 0, "adapter_count": 0, "weight": 1.0}
    with database.write() as connection:
        return Tenant(connection.execute(sa.insert(TENANTS).values(values).returning(TENANTS.c.id)).scalar_one(), name)


def principal(tenant: Tenant = DEFAULT_TENANT, key_id: str | None = None, *scopes: KeyScope) -> Principal:
    """Who may use and change adapters, and what `scopes` allow beside that."""
    return Principal(tenant, key_id, frozenset({"infer", "adapters", *scopes}))
