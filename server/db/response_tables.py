"""The tables of stored responses, beside those of `server.db.tables`.

Ids of responses sort by the time they were made. A response has its whole input, that of the turns before it included:
it can be gone on from after those have been deleted or have expired, and with one read.

Design decision: not a chain of responses that each have their own turn. That would take less room, and one that is
deleted or expires would end all conversations behind it.
"""

from __future__ import annotations

import sqlalchemy as sa

from server.db.tables import METADATA, ROW_ID

RESPONSES = sa.Table(
    "responses",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("background", sa.Boolean, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # what it counts for
    sa.Column("input", sa.Text, nullable=False),  # JSON array of items, each with an id
    sa.Column("response", sa.Text, nullable=False),  # JSON, OpenAI's object; its status is the column above
    sa.Column("lease_expires_at", sa.BigInteger, index=True),  # null when it has ended
    sa.Index(None, "tenant_id", "id"),
)

# Where an item is that a request refers to by its id (`item_reference`): items of outputs.
RESPONSE_ITEMS = sa.Table(
    "response_items",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.String(64), primary_key=True),
    sa.Column("response_id", sa.String(40), sa.ForeignKey("responses.id"), nullable=False, index=True),
)

# What all responses of a tenant count for.
RESPONSE_ROOM = sa.Table(
    "response_room",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
