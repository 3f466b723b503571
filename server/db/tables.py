"""The tables of the database, as SQLAlchemy sees them; `migrations/` makes them.

Rows that never change (versions, audit lines, moves of aliases) are kept apart from the one row per adapter that does.
Every change to an adapter raises that row's `revision`, so reading the revision tells whether what a gateway remembers
of the adapter is still true.

Times are whole seconds since 1970. Columns called JSON hold JSON text.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only under a primary key called INTEGER.
ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# Null in a quota or limit means that there is none, but where it says otherwise.
TENANTS = sa.Table(
    "tenants",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("disabled_at", sa.BigInteger),
    sa.Column("max_adapters", sa.BigInteger),
    sa.Column("adapter_count", sa.BigInteger, nullable=False),  # adapters with a version that is not deleted
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("max_concurrent_requests", sa.BigInteger),
    sa.Column("weight", sa.Float, nullable=False),  # its share of a full server, relative to the others'
    sa.Column("tokens_per_month", sa.BigInteger),
    sa.Column("priority_requests_per_minute", sa.BigInteger),  # null: it may not ask for priority
)

API_KEYS = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),  # SHA-256 of the key, in hexadecimal
    sa.Column("hint", sa.String(16), nullable=False),  # its last characters, to tell keys apart
    sa.Column("scopes", sa.String(128), nullable=False),  # separated by spaces
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("max_concurrent_requests", sa.BigInteger),
)

# A deleted adapter keeps its row, so that its next version does not take a number that was in use.
ADAPTERS = sa.Table(
    "adapters",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("last_version", sa.Integer, nullable=False),  # the highest ever given
    sa.Column("latest_version", sa.Integer),  # the highest that is not deleted; null when all are
    sa.Column("revision", sa.BigInteger, nullable=False),  # raised, by chance, by every change of the adapter
    sa.Column("public", sa.Boolean, nullable=False),  # false when all versions are deleted
    sa.UniqueConstraint("tenant_id", "name"),
    sa.Index(
        "ix_adapters_public",
        "tenant_id",
        "name",
        sqlite_where=sa.text("public = 1"),
        postgresql_where=sa.text("public"),
    ),
)

ADAPTER_VERSIONS = sa.Table(
    "adapter_versions",
    METADATA,
    sa.Column("adapter_id", ROW_ID, sa.ForeignKey("adapters.id"), primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("deleted_at", sa.BigInteger),
    sa.Column("recipe", sa.Text, nullable=False),  # canonical JSON
    sa.Column("factors", sa.String(64), nullable=False),  # SHA-256 of the factors file
    sa.Column("dtype", sa.String(16), nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),  # the vector, as uploaded
    sa.Column("sha256", sa.String(64), nullable=False),  # of data
    sa.Column("metadata", sa.Text, nullable=False),  # JSON object of strings
)

# The latest version's metadata again, a row per pair, to search by; with what the listing is ordered by, so that a page
# of it is read off the index.
ADAPTER_METADATA = sa.Table(
    "adapter_metadata",
    METADATA,
    sa.Column("adapter_id", ROW_ID, sa.ForeignKey("adapters.id"), primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.String(512), nullable=False),
    sa.Column("tenant_id", ROW_ID, nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Index(None, "tenant_id", "key", "value", "name"),
)

ALIASES = sa.Table(
    "aliases",
    METADATA,
    sa.Column("adapter_id", ROW_ID, sa.ForeignKey("adapters.id"), primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("targets", sa.Text, nullable=False),  # JSON object: version -> weight
    sa.Column("moved_at", sa.BigInteger, nullable=False),
)

ALIAS_MOVES = sa.Table(
    "alias_moves",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("adapter_id", ROW_ID, sa.ForeignKey("adapters.id"), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("targets", sa.Text),  # as in aliases; null when the alias was removed
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index(None, "adapter_id", "name"),
)

# What a write with an Idempotency-Key answered, so that the same write again answers the same.
IDEMPOTENCY_KEYS = sa.Table(
    "idempotency_keys",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),  # SHA-256 of the request
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON
    sa.Column("headers", sa.Text, nullable=False),  # JSON object of strings
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
)

AUDIT_LOG = sa.Table(
    "audit_log",
    METADATA,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("key_id", sa.String(32)),  # null: the admin key, or a server without keys
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(255), nullable=False),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON object
    # Null in rows from before there were such ids; they are shown by their number.
    sa.Column("public_id", sa.String(40)),
    sa.Index(None, "tenant_id", "id"),
    sa.Index(
        "uq_audit_log_public_id",
        "public_id",
        unique=True,
        sqlite_where=sa.text("public_id IS NOT NULL"),
        postgresql_where=sa.text("public_id IS NOT NULL"),
    ),
)

USAGE = sa.Table(
    "usage",
    METADATA,
    sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),  # its first second
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("key_id", sa.String(32), primary_key=True),  # "" without a key
    sa.Column("adapter", sa.String(255), primary_key=True),  # "acme/math@3", "base", "inline" or "mix"
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Index(None, "tenant_id", "hour"),
)

# The tokens of `usage` once more, by tenant and calendar month, written by the same transactions: what a limit on a
# month is compared with at every request, and what stays true when old usage is removed.
USAGE_MONTHS = sa.Table(
    "usage_months",
    METADATA,
    sa.Column("tenant_id", ROW_ID, sa.ForeignKey("tenants.id"), primary_key=True, autoincrement=False),
    sa.Column("month", sa.BigInteger, primary_key=True, autoincrement=False),  # its first second, of UTC
    sa.Column("tokens", sa.BigInteger, nullable=False),  # of prompts and answers
)
