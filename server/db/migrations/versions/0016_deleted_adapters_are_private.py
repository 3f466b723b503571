"""An adapter without a version that is not deleted is no longer public."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE adapters SET public = false, revision = revision + 1 WHERE public AND latest_version IS NULL")


def downgrade() -> None:
    """Nothing: which of them were public is not known, and need not be."""
