"""Ids of audit entries that do not count those of other tenants. Entries from before keep theirs; no row changes."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit_log", sa.Column("public_id", sa.String(40)))
    op.create_index(
        "uq_audit_log_public_id",
        "audit_log",
        ["public_id"],
        unique=True,
        sqlite_where=sa.text("public_id IS NOT NULL"),
        postgresql_where=sa.text("public_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_audit_log_public_id", "audit_log")
    op.drop_column("audit_log", "public_id")
