"""GET /v1/audit: who changed what, newest first.

Pages go by the entry's id, so that none is skipped or repeated while others are written. Entries are made by writes.py,
in the transaction that they tell of; there is no way to change them.
"""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query

from server.api.deps import GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.audit import ID_PREFIX, AuditEntry, AuditPage, AuditQuery
from server.core.errors import Forbidden
from server.db.tables import AUDIT_LOG, TENANTS

router = APIRouter(prefix="/v1", tags=["audit"], route_class=OwnRoute)


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
