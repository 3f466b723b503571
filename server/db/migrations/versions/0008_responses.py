"""Stored responses."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# Sorted by its bytes everywhere, whatever the database's language.
ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", ID, nullable=False),
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("background", sa.Boolean, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_responses_tenant_id"),
    )
    op.create_index("ix_responses_tenant_id_id", "responses", ["tenant_id", "id"])
    op.create_index("ix_responses_created_at", "responses", ["created_at"])
    op.create_index("ix_responses_lease_expires_at", "responses", ["lease_expires_at"])
    op.create_table(
        "response_items",
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("item_id", sa.String(64), nullable=False),
        sa.Column("response_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "item_id", name="pk_response_items"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_response_items_tenant_id"),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_response_items_response_id"),
    )
    op.create_index("ix_response_items_response_id", "response_items", ["response_id"])
    op.create_table(
        "response_room",
        sa.Column("tenant_id", ROW_ID, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_response_room"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_response_room_tenant_id"),
    )


def downgrade() -> None:
    op.drop_table("response_room")
    op.drop_table("response_items")
    op.drop_table("responses")
