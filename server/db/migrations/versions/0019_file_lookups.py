"""Indexes by which expired files are found among those that are not deleted, and what refers to a file."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

REFERENCES = (("batches", "output_file_id"), ("batches", "error_file_id"), ("uploads", "file_id"))


def upgrade() -> None:
    for column in ("expires_at", "created_at"):
        live = sa.text("deleted_at IS NULL")
        op.create_index(f"ix_files_live_{column}", "files", [column], sqlite_where=live, postgresql_where=live)
    for table, column in REFERENCES:
        op.create_index(f"ix_{table}_{column}", table, [column])
    # The last, because readers wait for what comes behind it.
    op.drop_index("ix_files_expires_at", "files")


def downgrade() -> None:
    for table, column in REFERENCES:
        op.drop_index(f"ix_{table}_{column}", table)
    for column in ("expires_at", "created_at"):
        op.drop_index(f"ix_files_live_{column}", "files")
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
