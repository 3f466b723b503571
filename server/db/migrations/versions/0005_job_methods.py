"""The method of every job, for workers that do some of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("method_type", sa.String(16), nullable=False, server_default="reinforcement")
    op.add_column("jobs", column)
    # As text, for JSON is read differently by every database; the server itself wrote it.
    op.execute("UPDATE jobs SET method_type = 'supervised' WHERE method LIKE '{\"type\": \"supervised\"%'")


def downgrade() -> None:
    op.drop_column("jobs", "method_type")
