"""An index by which a tenant's last turn is found."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_turns", "jobs", ["tenant_id", "factors", "turn_began_at"])


def downgrade() -> None:
    op.drop_index("ix_jobs_turns", "jobs")
