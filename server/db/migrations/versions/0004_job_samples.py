"""Samples of training steps."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "job_samples",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("split", sa.String(8), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_job_samples"),
        sa.UniqueConstraint("job_id", "step", "split", "place", name="uq_job_samples_job_id_step_split_place"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_samples_job_id"),
    )


def downgrade() -> None:
    op.drop_table("job_samples")
