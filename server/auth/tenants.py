"""Tenants in the database: companies, which own adapters and keys.

A tenant is disabled, never deleted: its adapters, usage and audit log stay, and it can be enabled again.

Functions of a connection, to be called within a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.names import check_tenant_name
from server.core.principal import DEFAULT_TENANT_NAME
from server.db.database import Database
from server.db.tables import TENANTS


def create_tenant(database: Database, connection: Connection, name: str, quotas: Mapping[str, Any]) -> Row[Any]:
    """A new tenant; `quotas` are columns of TENANTS. BadRequest when there is one of this name."""
    values = {"weight": 1.0, **quotas, "name": name, "created_at": now(), "adapter_count": 0}
    insert = database.insert(TENANTS).values(values).on_conflict_do_nothing(index_elements=["name"])
    row = connection.execute(insert.returning(*TENANTS.c)).one_or_none()
    if row is None:
        raise BadRequest(
            f"There is a tenant {quoted(name)} already; choose another name, or change that one with PATCH.",
            param="name",
            code="tenant_exists",
        )
    return row


def find_tenant(connection: Connection, name: str) -> Row[Any]:
    """The tenant called `name`. NotFound when there is none."""
    check_tenant_name(name, "tenant")
    row = connection.execute(sa.select(TENANTS).where(TENANTS.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no tenant {quoted(name)}; GET /v1/tenants lists those there are.",
            param="tenant",
            code="tenant_not_found",
        )
    return row


def list_tenants(connection: Connection, after: str, limit: int) -> tuple[Sequence[Row[Any]], bool]:
    """Tenants by name, behind `after`; and whether there are more."""
    found = sa.select(TENANTS).where(TENANTS.c.name > after).order_by(TENANTS.c.name).limit(limit + 1)
    rows = connection.execute(found).all()
    return rows[:limit], len(rows) > limit


def update_tenant(
    connection: Connection,
    name: str,
    quotas: Mapping[str, Any],
    *,
    disabled: bool | None = None,
    on_disable: Callable[[Connection, int], None] | None = None,
) -> tuple[Row[Any], bool]:
    """Change columns of TENANTS, and whether the tenant's keys work. Returns the row, and whether anything changed.

    `on_disable(connection, tenant_id)` is called where keys cease to work. Raises as `find_tenant`, and BadRequest for
    disabling the default tenant.
    """
    row = find_tenant(connection, name)
    values = {column: value for column, value in quotas.items() if getattr(row, column) != value}
    if disabled and name == DEFAULT_TENANT_NAME:
        raise BadRequest(
            f"The tenant '{name}' is the operator's own, and cannot be disabled; revoke its keys instead.",
            param="disabled",
            code="invalid_value",
        )
    if disabled is not None and disabled != (row.disabled_at is not None):
        values["disabled_at"] = now() if disabled else None
        if disabled and on_disable is not None:
            on_disable(connection, row.id)  # before the tenant's row is locked, as reports of workers do
    if not values:
        return row, False
    change = TENANTS.update().where(TENANTS.c.id == row.id).values(values)
    return connection.execute(change.returning(*TENANTS.c)).one(), True
