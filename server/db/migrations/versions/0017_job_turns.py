"""Since when a job has its turn. Jobs that run meanwhile have theirs from the next worker on."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("turn_began_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("jobs", "turn_began_at")
