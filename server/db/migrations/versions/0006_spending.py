"""What tenants may spend by the month, what they have spent, and who may ask for priority."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

from server.core.months import month_start

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("tokens_per_month", sa.BigInteger))
    op.add_column("tenants", sa.Column("priority_requests_per_minute", sa.BigInteger))
    op.create_table(
        "usage_months",
        sa.Column(
            "tenant_id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.ForeignKey("tenants.id", name="fk_usage_months_tenant_id_tenants"),
            nullable=False,
        ),
        sa.Column("month", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "month", name="pk_usage_months"),
    )
    # Of the month that is running, since that is all that a limit looks at.
    op.execute(
        sa.text(
            "INSERT INTO usage_months (tenant_id, month, tokens) "
            "SELECT tenant_id, :month, SUM(prompt_tokens + completion_tokens) FROM usage "
            "WHERE hour >= :month GROUP BY tenant_id"
        ).bindparams(sa.bindparam("month", month_start(int(time.time())), sa.BigInteger))
    )


def downgrade() -> None:
    op.drop_table("usage_months")
    op.drop_column("tenants", "priority_requests_per_minute")
    op.drop_column("tenants", "tokens_per_month")
