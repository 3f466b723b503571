"""The tables of webhooks, beside those of `server.db.tables`: endpoints of tenants, and what is yet to be told them."""

from __future__ import annotations

import sqlalchemy as sa

from server.db.tables import METADATA, ROW_ID

# How secrets are stored is in server.endpoints.webhook_secrets.
WEBHOOK_ENDPOINTS = sa.Table(
    "webhook_endpoints",
    METADATA,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("event_types", sa.Text, nullable=False),  # JSON array
    sa.Column("secret", sa.Text),  # sealed
    sa.Column("old_secret", sa.Text),  # the one before it, valid until old_seed_until
    sa.Column("seed", sa.String(64), nullable=False),  # of earlier versions' secrets, else empty
    sa.Column("old_seed", sa.String(64)),
    sa.Column("old_seed_until", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("delivered_at", sa.BigInteger),  # the last time it took an event
    sa.Column("failed_at", sa.BigInteger),  # the last time it did not
    sa.Column("error", sa.String(500)),  # why not
    sa.Column("failures", sa.Integer, nullable=False),  # one after the other
    sa.Column("next_at", sa.BigInteger, index=True),  # when it is told next, or taken over; null: nothing waits
    sa.Index(None, "tenant_id", "id"),
)

# Events that wait for an endpoint, in the order of their ids.
WEBHOOK_DELIVERIES = sa.Table(
    "webhook_deliveries",
    METADATA,
    sa.Column("endpoint_id", sa.String(40), sa.ForeignKey("webhook_endpoints.id"), primary_key=True),
    sa.Column("event_id", sa.String(40), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # JSON, as it is sent
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
