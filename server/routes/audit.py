"""GET /v1/audit: who changed what, newest first.

Design decision: pages go by the entry's id, so that none is skipped or repeated while others are written.

Entries are made by writes.py, in the transaction that they tell of; there is no way to change them.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy.engine import Row

from server.errors import Forbidden
from server.gateway import GatewayDep
from server.principal import PrincipalDep
from server.routes.own_route import OwnRoute
from server.schemas import IdPage, StrictQuery
from server.tables import AUDIT_LOG, TENANTS

MAX_TIME = 2**40
ID_PREFIX = "audit_"
router = APIRouter(prefix="/v1", tags=["audit"], route_class=OwnRoute)


class AuditQuery(StrictQuery):
    """Which entries: of an action, of a target that begins with `target`, `since` and before `until` (seconds)."""

    after: str | None = Field(
        None, pattern=rf"^{ID_PREFIX}[0-9]{{1,18}}$", description="the last id of the page before"
    )
    limit: int = Field(20, ge=1, le=100)
    action: str | None = Field(None, max_length=64, pattern="^[ -~]*$")
    target: str = Field("", max_length=255, pattern="^[ -~]*$")
    since: int = Field(0, ge=0, le=MAX_TIME)
    until: int | None = Field(None, ge=0, le=MAX_TIME)
    all_tenants: bool = Field(False, description="of all tenants, with the scope admin")


class AuditEntry(BaseModel):
    """One change. `api_key_id` is null for the operator's keys, and on a server without keys."""

    object: Literal["audit_entry"] = "audit_entry"
    id: str
    created_at: int
    tenant: str
    api_key_id: str | None
    action: str
    target: str
    request_id: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, row: Row[Any]) -> AuditEntry:
        return cls(
            id=f"{ID_PREFIX}{row.id}",
            created_at=row.created_at,
            tenant=row.tenant,
            api_key_id=row.key_id,
            action=row.action,
            target=row.target,
            request_id=row.request_id,
            detail=json.loads(row.detail),
        )


class AuditPage(IdPage):
    """The next page has the query `after=<last_id>`."""

    data: list[AuditEntry]


@router.get("/audit")
def list_audit(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[AuditQuery, Query()]) -> AuditPage:
    """Changes by the tenant that asks; with the scope admin, by all tenants if asked for."""
    if query.all_tenants and not principal.may("admin"):
        raise Forbidden("The changes of all tenants take a key with the scope admin; leave out all_tenants.")
    conditions = [AUDIT_LOG.c.created_at >= query.since]
    if not query.all_tenants:
        conditions.append(AUDIT_LOG.c.tenant_id == principal.tenant.id)
    if query.until is not None:
        conditions.append(AUDIT_LOG.c.created_at < query.until)
    if query.action is not None:
        conditions.append(AUDIT_LOG.c.action == query.action)
    if query.target:
        # LIKE would not tell upper from lower case on SQLite.
        conditions.append(sa.func.substr(AUDIT_LOG.c.target, 1, len(query.target)) == query.target)
    if query.after is not None:
        conditions.append(AUDIT_LOG.c.id < int(query.after.removeprefix(ID_PREFIX)))
    statement = (
        sa.select(AUDIT_LOG, TENANTS.c.name.label("tenant"))
        .join_from(AUDIT_LOG, TENANTS, TENANTS.c.id == AUDIT_LOG.c.tenant_id)
        .where(*conditions)
        .order_by(AUDIT_LOG.c.id.desc())
        .limit(query.limit + 1)
    )
    with gateway.database.read() as connection:
        rows = connection.execute(statement).all()
    data = [AuditEntry.of(row) for row in rows[: query.limit]]
    return AuditPage.page(data, len(rows) > query.limit)
