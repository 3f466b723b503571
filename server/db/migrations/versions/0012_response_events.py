"""Streams of responses in the background."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("responses", sa.Column("events", sa.Integer))
    op.create_table(
        "response_events",
        sa.Column("response_id", ID, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("response_id", "first", name="pk_response_events"),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_response_events_response_id"),
    )


def downgrade() -> None:
    op.drop_table("response_events")
    op.drop_column("responses", "events")
