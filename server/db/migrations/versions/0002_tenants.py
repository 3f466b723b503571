"""Tenants with keys and quotas, the life of adapters, idempotency, audit and usage. What was there is "default"'s."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def name_type(length: int) -> sa.types.TypeEngine[str]:
    """A name, sorted by its bytes everywhere: listings of both databases have one order, and prefixes use the index."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


OLD = {"adapters": ("pk_adapters", "uq_adapters_name"), "adapter_versions": ("pk_adapter_versions",)}


def upgrade() -> None:
    now = int(time.time())
    # SQLite cannot take a unique constraint off a table, so the two old ones are copied.
    for table, constraints in OLD.items():
        op.rename_table(table, f"{table}_0001")
        if op.get_context().dialect.name == "postgresql":  # where names of indexes are the schema's, not the table's
            for name in constraints:
                op.execute(f"ALTER TABLE {table}_0001 RENAME CONSTRAINT {name} TO {name}_0001")
    op.create_table(
        "tenants",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", name_type(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
        sa.Column("max_adapters", sa.BigInteger),
        sa.Column("adapter_count", sa.BigInteger, nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("max_concurrent_requests", sa.BigInteger),
        sa.Column("weight", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
    )
    op.execute(
        "INSERT INTO tenants (name, created_at, adapter_count, weight) "
        f"SELECT 'default', {now}, (SELECT count(*) FROM adapters_0001 WHERE latest_version IS NOT NULL), 1.0"
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("hint", sa.String(16), nullable=False),
        sa.Column("scopes", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("requests_per_minute", sa.BigInteger),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("max_concurrent_requests", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("hash", name="uq_api_keys_hash"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_api_keys_tenant_id"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"])
    op.create_table(
        "adapters",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("name", name_type(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.Column("latest_version", sa.Integer),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("public", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_adapters_tenant_id_name"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_adapters_tenant_id"),
    )
    op.create_index(
        "ix_adapters_public",
        "adapters",
        ["tenant_id", "name"],
        sqlite_where=sa.text("public = 1"),
        postgresql_where=sa.text("public"),
    )
    op.create_table(
        "adapter_versions",
        sa.Column("adapter_id", ROW_ID, nullable=False, autoincrement=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("factors", sa.String(64), nullable=False),
        sa.Column("dtype", sa.String(16), nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "version", name="pk_adapter_versions"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_adapter_versions_adapter_id"),
    )
    op.execute(
        "INSERT INTO adapters (tenant_id, name, created_at, last_version, latest_version, revision, public) "
        "SELECT (SELECT id FROM tenants), old.name, coalesce((SELECT min(v.created_at) FROM adapter_versions_0001 v "
        f"WHERE v.adapter_id = old.id), {now}), old.last_version, old.latest_version, 1, false "
        "FROM adapters_0001 old ORDER BY old.id"
    )
    columns = "version, created_at, recipe, factors, dtype, data, sha256, metadata"
    old_columns = ", ".join(f"v.{column}" for column in columns.split(", "))
    op.execute(
        f"INSERT INTO adapter_versions (adapter_id, {columns}) SELECT new.id, {old_columns} "
        "FROM adapter_versions_0001 v JOIN adapters_0001 old ON old.id = v.adapter_id "
        "JOIN adapters new ON new.name = old.name"
    )
    op.drop_table("adapter_versions_0001")
    op.drop_table("adapters_0001")
    op.create_table(
        "adapter_metadata",
        sa.Column("adapter_id", ROW_ID, nullable=False, autoincrement=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(512), nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("name", name_type(128), nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "key", name="pk_adapter_metadata"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_adapter_metadata_adapter_id"),
    )
    op.create_index(
        "ix_adapter_metadata_tenant_id_key_value_name", "adapter_metadata", ["tenant_id", "key", "value", "name"]
    )
    _fill_metadata()
    op.create_table(
        "aliases",
        sa.Column("adapter_id", ROW_ID, nullable=False, autoincrement=False),
        sa.Column("name", name_type(64), nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("moved_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "name", name="pk_aliases"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_aliases_adapter_id"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("adapter_id", ROW_ID, nullable=False),
        sa.Column("name", name_type(64), nullable=False),
        sa.Column("targets", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alias_moves"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_alias_moves_adapter_id"),
    )
    op.create_index("ix_alias_moves_adapter_id_name", "alias_moves", ["adapter_id", "name"])
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", ROW_ID, nullable=False, autoincrement=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_idempotency_keys_tenant_id"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "audit_log",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("key_id", sa.String(32)),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_log_tenant_id"),
    )
    op.create_index("ix_audit_log_tenant_id_id", "audit_log", ["tenant_id", "id"])
    op.create_table(
        "usage",
        sa.Column("hour", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("tenant_id", ROW_ID, nullable=False, autoincrement=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("adapter", sa.String(255), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("hour", "tenant_id", "key_id", "adapter", name="pk_usage"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_usage_tenant_id"),
    )
    op.create_index("ix_usage_tenant_id_hour", "usage", ["tenant_id", "hour"])


def _fill_metadata() -> None:
    pairs = (
        "json_each(v.metadata) pair"
        if op.get_context().dialect.name == "sqlite"
        else "json_each_text(v.metadata::json) pair"
    )
    op.execute(
        "INSERT INTO adapter_metadata (adapter_id, key, value, tenant_id, name) "
        "SELECT a.id, pair.key, pair.value, a.tenant_id, a.name FROM adapters a "
        f"JOIN adapter_versions v ON v.adapter_id = a.id AND v.version = a.latest_version, {pairs}"
    )


def downgrade() -> None:
    raise NotImplementedError("Tenants cannot be taken back: restore the database from before the upgrade.")
