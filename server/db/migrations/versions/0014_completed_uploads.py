"""Of which parts an upload was completed. Of those that were before it is not known; their rows go after a day."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("parts_sha256", sa.String(64)))
    op.add_column("uploads", sa.Column("md5", sa.String(32)))


def downgrade() -> None:
    for name in ("md5", "parts_sha256"):
        op.drop_column("uploads", name)
