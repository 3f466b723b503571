"""GET /v1/audit: who changed what, newest first.

Pages go by the numbers of rows, so that none is skipped or repeated while others are written. Entries are made by
writes.py, in the transaction that they tell of; there is no way to change them.

Design decision: ids are not those numbers, which count the entries of all tenants: a tenant would see from the gaps
between its own how much the others do. Only entries from before there were such ids are still shown by their number.
"""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query

from server.api.deps import GatewayDep, PrincipalDep
from server.api.own_route import OwnRoute
from server.api.schemas.audit import ID_PREFIX, AuditEntry, AuditPage, AuditQuery
from server.core.errors import Forbidden
from server.core.ids import is_id
from server.db.tables import AUDIT_LOG, TENANTS

router = APIRouter(prefix="/v1", tags=["audit"], route_class=OwnRoute)


@router.get("/audit")
def list_audit(gateway: GatewayDep, principal: PrincipalDep, query: Annotated[AuditQuery, Query()]) -> AuditPage:
    """Changes by the tenant that asks; with the scope admin, by all tenants if asked for."""
    if query.all_tenants and not principal.may("admin"):
        raise Forbidden("The changes of all tenants take a key with the scope admin; leave out all_tenants.")
    tenant_id = None if query.all_tenants else principal.tenant.id
    conditions = [AUDIT_LOG.c.created_at >= query.since]
    if tenant_id is not None:
        conditions.append(AUDIT_LOG.c.tenant_id == tenant_id)
    if query.until is not None:
        conditions.append(AUDIT_LOG.c.created_at < query.until)
    if query.action is not None:
        conditions.append(AUDIT_LOG.c.action == query.action)
    if query.target:
        # LIKE would not tell upper from lower case on SQLite.
        conditions.append(sa.func.substr(AUDIT_LOG.c.target, 1, len(query.target)) == query.target)
    if query.after is not None:
        conditions.append(AUDIT_LOG.c.id < _number_of(query.after, tenant_id))
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


def _number_of(entry_id: str, tenant_id: int | None) -> sa.ScalarSelect[int]:
    """The number of the row with this id, among the tenant's if one is given; null, so that no page follows, of none.

    An entry that was removed for its age has no row either, and the entries behind it are older still.
    """
    entry = AUDIT_LOG.alias()
    number = sa.select(entry.c.id)
    if tenant_id is not None:
        number = number.where(entry.c.tenant_id == tenant_id)
    if is_id(entry_id, ID_PREFIX):
        number = number.where(entry.c.public_id == entry_id)
    else:
        number = number.where(entry.c.id == int(entry_id.removeprefix(ID_PREFIX)), entry.c.public_id.is_(None))
    return number.scalar_subquery()
