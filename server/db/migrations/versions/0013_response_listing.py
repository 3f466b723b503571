"""Listings of stored responses. Those that there are have no model in them; they expire."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("responses", sa.Column("model", sa.String(255)))
    op.add_column("responses", sa.Column("model_name", sa.String(255)))
    op.add_column("responses", sa.Column("previous_response_id", ID))
    op.create_index("ix_responses_tenant_id_status_id", "responses", ["tenant_id", "status", "id"])
    op.create_index("ix_responses_tenant_id_model_name_id", "responses", ["tenant_id", "model_name", "id"])


def downgrade() -> None:
    op.drop_index("ix_responses_tenant_id_model_name_id", "responses")
    op.drop_index("ix_responses_tenant_id_status_id", "responses")
    for name in ("previous_response_id", "model_name", "model"):
        op.drop_column("responses", name)
