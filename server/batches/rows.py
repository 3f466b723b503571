"""Batches as their owners see them: creating, reading and cancelling. Functions of a connection.

Another tenant's batch is answered like a missing one. What gateways do is in leases.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.batches.states import FINISHED
from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import check_after, is_id, new_id
from server.db.batch_tables import BATCHES, UNFINISHED
from server.db.tenant_lock import lock_tenant
from server.limits.unfinished_work import too_much_unfinished
from server.training.files.rows import file_to_use

PREFIX = "batch_"
PURPOSE = "batch"
WINDOW_S = 24 * 3600
COUNTS = (
    "total", "completed", "failed", "result_bytes", "attempts",
    "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A new batch. output_expires_s: how long its output files are kept; None: until they are deleted."""

    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    output_expires_s: int | None


def create_batch(connection: Connection, tenant_id: int, key_id: str | None, batch: NewBatch, most: int) -> Row[Any]:
    """Create a batch; its row. BadRequest when the file cannot be used, TooManyRequests when `most` have not ended."""
    lock_tenant(connection, tenant_id)
    unfinished = sa.select(sa.func.count()).where(BATCHES.c.tenant_id == tenant_id, BATCHES.c.status.in_(UNFINISHED))
    if (count := connection.execute(unfinished).scalar_one()) >= most:
        raise too_much_unfinished(
            "batches", "/v1/batches", count, most, "max_tenant_batches", code="batch_limit_reached"
        )
    file_to_use(connection, tenant_id, batch.input_file_id, "input_file_id", PURPOSE)
    at = now()
    values = {
        **dict.fromkeys(COUNTS, 0),
        "id": new_id(PREFIX),
        "tenant_id": tenant_id,
        "key_id": key_id,
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "metadata": None if batch.metadata is None else json.dumps(dict(batch.metadata)),
        "output_expires_s": batch.output_expires_s,
        "status": "validating",
        "created_at": at,
        "expires_at": at + WINDOW_S,
    }
    return connection.execute(BATCHES.insert().values(values).returning(BATCHES)).one()


def get_batch(connection: Connection, tenant_id: int, batch_id: str, *, lock: bool = False) -> Row[Any]:
    """The row of a batch, until the transaction ends if it is to `lock`. NotFound."""
    rows = sa.select(BATCHES).where(BATCHES.c.id == batch_id, BATCHES.c.tenant_id == tenant_id)
    row = None
    if is_id(batch_id, PREFIX):
        row = connection.execute(rows.with_for_update() if lock else rows).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no batch {quoted(batch_id)}; GET /v1/batches lists those there are.",
            param="batch_id",
            code="batch_not_found",
        )
    return row


def list_batches(
    connection: Connection, tenant_id: int, *, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """(the tenant's batches, newest first, after the id `after`; whether there are more)."""
    rows = sa.select(BATCHES).where(BATCHES.c.tenant_id == tenant_id)
    if after is not None:
        check_after(after, PREFIX, "a batch")
        rows = rows.where(BATCHES.c.id < after)
    found = connection.execute(rows.order_by(BATCHES.c.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def cancel_batch(connection: Connection, tenant_id: int, batch_id: str) -> Row[Any]:
    """Have a batch end; what it has answered is kept. Once more does nothing. BadRequest when it has ended otherwise,
    or its output is being written."""
    row = get_batch(connection, tenant_id, batch_id, lock=True)
    if row.status in ("cancelling", "cancelled"):
        return row
    if row.status == "finalizing" or row.status in FINISHED:
        said = "its output is being written" if row.status == "finalizing" else f"it is {row.status}"
        raise BadRequest(
            f"The batch {batch_id} can no longer be cancelled: {said}.", param="batch_id", code="batch_finished"
        )
    values = {"status": "cancelling", "cancelling_at": now()}
    return connection.execute(BATCHES.update().where(BATCHES.c.id == row.id).values(values).returning(BATCHES)).one()
