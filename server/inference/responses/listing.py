"""Listings of a tenant's stored responses, which do not read what was asked and answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.ids import check_after
from server.db.response_tables import RESPONSES
from server.inference.responses.rows import PREFIX, name_of

LISTED = ("id", "created_at", "status", "background", "bytes", "events", "model", "previous_response_id")


def list_responses(
    connection: Connection,
    tenant_id: int,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    status: str | None,
    model: str | None,
) -> tuple[Sequence[Row[Any]], bool]:
    """(the tenant's responses by creation time, after the id `after`, without their texts; whether there are more).

    model: an adapter at a version, or its name, which stands for all of them; the base model's name; inline or mix.
    """
    rows = sa.select(*(RESPONSES.c[name] for name in LISTED)).where(RESPONSES.c.tenant_id == tenant_id)
    if status is not None:
        rows = rows.where(RESPONSES.c.status == status)
    if model is not None:
        name = name_of(model)
        rows = rows.where(RESPONSES.c.model_name == name)
        if name != model:
            rows = rows.where(RESPONSES.c.model == model)
    if after is not None:
        check_after(after, PREFIX, "a response")
        rows = rows.where(RESPONSES.c.id > after if order == "asc" else RESPONSES.c.id < after)
    rows = rows.order_by(RESPONSES.c.id if order == "asc" else RESPONSES.c.id.desc())
    found = connection.execute(rows.limit(limit + 1)).all()
    return found[:limit], len(found) > limit
