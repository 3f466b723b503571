"""/v1/tenants: make, list, look up and change tenants. The scope admin is needed (auth/scopes.py).

There is no DELETE: a tenant is disabled, by PATCH, and its keys are then refused.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.engine import Connection

from server.api.deps import GatewayDep, WriteDep
from server.api.own_route import OwnRoute
from server.api.schemas.pages import NoQuery, PageQuery
from server.api.schemas.tenants import TenantChange, TenantCreate, TenantList, TenantObject
from server.api.writes import Answer
from server.auth.tenants import create_tenant, find_tenant, list_tenants, update_tenant
from server.core.names import check_tenant_name
from server.training.jobs.lifecycle import pause_jobs_of_disabled

PREFIX = "/v1/tenants"
router = APIRouter(prefix=PREFIX, tags=["tenants"], route_class=OwnRoute)


@router.post("", status_code=201, response_model=TenantObject)
def make_tenant(
    body: TenantCreate, gateway: GatewayDep, write: WriteDep, _query: Annotated[NoQuery, Query()]
) -> Response:
    """Make a tenant. It has no keys yet."""
    name = check_tenant_name(body.name, "name")
    quotas = body.model_dump(exclude={"name"})

    def do(connection: Connection) -> Answer:
        return Answer(TenantObject.of(create_tenant(gateway.database, connection, name, quotas)).model_dump(), 201)

    return write.run("tenant.create", name, do, quotas)


@router.get("")
def get_tenants(gateway: GatewayDep, query: Annotated[PageQuery, Query()]) -> TenantList:
    """All tenants, by name."""
    after = "" if query.after is None else check_tenant_name(query.after, "after")
    with gateway.database.read() as connection:
        return TenantList.of(*list_tenants(connection, after, query.limit))


@router.get("/{tenant}")
def get_tenant(tenant: str, gateway: GatewayDep, _query: Annotated[NoQuery, Query()]) -> TenantObject:
    """One tenant."""
    with gateway.database.read() as connection:
        return TenantObject.of(find_tenant(connection, tenant))


@router.patch("/{tenant}", response_model=TenantObject)
def change_tenant(tenant: str, change: TenantChange, write: WriteDep, _query: Annotated[NoQuery, Query()]) -> Response:
    """Change quotas and weight, null for no limit; disable a tenant or enable it again. It holds at once."""
    disabled = change.disabled if "disabled" in change.model_fields_set else None

    def do(connection: Connection) -> Answer:
        row, is_news = update_tenant(
            connection, tenant, change.quotas(), disabled=disabled, on_disable=pause_jobs_of_disabled
        )
        return Answer(TenantObject.of(row).model_dump(), is_news=is_news)

    return write.run("tenant.update", tenant, do, change.model_dump(exclude_unset=True))
