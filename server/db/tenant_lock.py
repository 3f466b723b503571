"""One lock per tenant, for what is counted before it is added: files, jobs."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from server.db.tables import TENANTS


def lock_tenant(connection: Connection, tenant_id: int) -> None:
    """Have others who call this wait until the transaction ends. It locks no row of a job or an adapter that exists
    after this one: elsewhere those are locked first."""
    # Rows that refer to the tenant can be made meanwhile.
    connection.execute(sa.select(TENANTS.c.id).where(TENANTS.c.id == tenant_id).with_for_update(key_share=True))
