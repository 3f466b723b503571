"""Secrets of webhooks themselves, sealed, where there were seeds of them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = ("secret", "old_secret")


def upgrade() -> None:
    for column in COLUMNS:
        op.add_column("webhook_endpoints", sa.Column(column, sa.Text))


def downgrade() -> None:
    # The owners of endpoints without a seed have to rotate their secrets then.
    for column in COLUMNS:
        op.drop_column("webhook_endpoints", column)
