"""The tables of stored responses, beside those of `server.db.tables`.

Ids of responses sort by the time they were made. A response has its whole input, that of the turns before it included:
it can be gone on from after those have been deleted or have expired, and with one read.

Events of a stream are stored some at a time, compressed. The last one is not: it is made of the response's row, so that
whoever ends a response has ended its stream as well.

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
    # Of `response`, for listings; null in rows from before there were listings.
    sa.Column("model", sa.String(255)),  # "acme/math@3", or the base model
    sa.Column("model_name", sa.String(255)),  # its name without a version, "inline" or "mix"
    sa.Column("previous_response_id", sa.String(40)),
    sa.Column("response", sa.Text, nullable=False),  # JSON, OpenAI's object; its status is the column above
    sa.Column("events", sa.Integer),  # how many of its stream are stored; null when it has none
    sa.Column("lease_expires_at", sa.BigInteger, index=True),  # null when it has ended
    sa.Index(None, "tenant_id", "id"),
    sa.Index(None, "tenant_id", "status", "id"),
    sa.Index(None, "tenant_id", "model_name", "id"),
)

# Where an item is that a request refers to by its id (`item_reference`): items of outputs.
RESPONSE_ITEMS = sa.Table(
    "response_items",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.String(64), primary_key=True),
    sa.Column("response_id", sa.String(40), sa.ForeignKey("responses.id"), nullable=False, index=True),
)

# The events of streams, as they are sent, some in a row: from number `first` on, zlib's format.
RESPONSE_EVENTS = sa.Table(
    "response_events",
    METADATA,
    sa.Column("response_id", sa.String(40), sa.ForeignKey("responses.id"), primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("events", sa.LargeBinary, nullable=False),
)

# What all responses of a tenant count for.
RESPONSE_ROOM = sa.Table(
    "response_room",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
