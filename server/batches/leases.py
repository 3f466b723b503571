"""A batch on the gateway that has it: what is stored of its lines, what is wanted of it, how it ends. Functions of a
connection. Which gateway has it is in turns.py.

A gateway renews its lease every second or so. Answers are stored, counted, and the lease renewed in one transaction,
which locks the batch's row first: a gateway that has lost the lease stores nothing more, and a line that is counted is
durable. A line has one row, whoever stores it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.auth.api_keys import has_ended, key_limits, tenant_of_row
from server.batches.answers import Result
from server.batches.states import FINISHED, Outcome
from server.core.clock import now
from server.core.months import month_start
from server.core.principal import Limits, Principal
from server.db.batch_tables import BATCH_RESULTS, BATCHES
from server.db.database import Database
from server.db.tables import API_KEYS, TENANTS, USAGE_MONTHS
from server.db.training_tables import FILES
from server.endpoints.webhooks import announce

MAX_ATTEMPTS = 5
# After a defect or an outage of the storage.
REST_S = 5
# In one statement: SQLite and PostgreSQL bound the values of one.
INSERTED_ROWS = 1000

# What the batch's owner, its time or the operator want of the gateway that has it.
Wanted = Literal["go on", "cancel", "expire", "fail", "no key", "less output", "wait", "nothing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch as its gateway must see it. `wanted`: "wait" where its tenant is disabled, "nothing" where the lease is
    another's; "fail" where its input file is gone, "no key" where the key that made it was revoked or has expired."""

    wanted: Wanted
    row: Row[Any]
    principal: Principal | None


def record(
    connection: Connection,
    database: Database,
    batch_id: str,
    owner: str,
    results: Sequence[Result],
    lease_s: int,
    most_bytes: int,
) -> Standing:
    """Store the answers of lines and renew the lease; nothing where that is another's. What is wanted now."""
    seen = standing(connection, batch_id, owner, most_bytes=most_bytes, lock=True)
    if seen.wanted == "nothing":
        return seen
    values: dict[str, Any] = {"lease_expires_at": now() + lease_s}
    stored = _store(connection, database, batch_id, results) if seen.row.outcome is None else []
    if stored:
        failed = sum(result.is_error for result in stored)
        values |= {"attempts": 0, **_more(seen.row, stored)}
        values |= {"completed": seen.row.completed + len(stored) - failed, "failed": seen.row.failed + failed}
    change(connection, batch_id, **values)
    return standing(connection, batch_id, owner, most_bytes=most_bytes)


def _store(connection: Connection, database: Database, batch_id: str, results: Sequence[Result]) -> list[Result]:
    """Those of `results` whose lines had none."""
    if not results:
        return []
    rows = [
        {"batch_id": batch_id, "line": result.line, "is_error": result.is_error, "data": result.data}
        for result in results
    ]
    lines: set[int] = set()
    for start in range(0, len(rows), INSERTED_ROWS):
        insert = database.insert(BATCH_RESULTS).values(rows[start : start + INSERTED_ROWS]).on_conflict_do_nothing()
        lines.update(connection.execute(insert.returning(BATCH_RESULTS.c.line)).scalars())
    return [result for result in results if result.line in lines]


def _more(row: Row[Any], stored: Sequence[Result]) -> Mapping[str, int]:
    counts = {
        name: getattr(row, name) + sum(getattr(result.usage, name) for result in stored)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    }
    return {**counts, "result_bytes": row.result_bytes + sum(len(result.data) for result in stored)}


def standing(
    connection: Connection, batch_id: str, owner: str, *, most_bytes: int | None = None, lock: bool = False
) -> Standing:
    """The batch as `owner` must see it, its row locked until the transaction ends if it is to `lock`."""
    rows = sa.select(BATCHES).where(BATCHES.c.id == batch_id)
    row = connection.execute(rows.with_for_update() if lock else rows).one()
    tenant = _tenant(connection, row.tenant_id)
    key = connection.execute(sa.select(API_KEYS).where(API_KEYS.c.id == row.key_id)).one_or_none()
    wanted: Wanted = "go on"
    if row.lease_owner != owner or row.status in FINISHED:
        wanted = "nothing"
    elif row.outcome is not None:
        wanted = "go on"  # it ends as was settled
    elif row.status == "cancelling":
        wanted = "cancel"
    elif row.expires_at <= now():
        wanted = "expire"
    elif tenant.disabled_at is not None:
        wanted = "wait"
    elif key is not None and has_ended(key, now()):
        wanted = "no key"
    elif input_file(connection, row.input_file_id) is None:
        wanted = "fail"
    elif most_bytes is not None and row.result_bytes > most_bytes:
        wanted = "less output"
    return Standing(wanted, row, None if tenant.disabled_at is not None else _principal(row, tenant, key))


def _tenant(connection: Connection, tenant_id: int) -> Row[Any]:
    """The tenant's row, with the tokens that it has used in this month."""
    month = sa.select(USAGE_MONTHS.c.tokens).where(
        USAGE_MONTHS.c.tenant_id == tenant_id, USAGE_MONTHS.c.month == month_start(now())
    )
    rows = sa.select(TENANTS, month.scalar_subquery().label("month_tokens")).where(TENANTS.c.id == tenant_id)
    return connection.execute(rows).one()


def _principal(row: Row[Any], tenant: Row[Any], key: Row[Any] | None) -> Principal:
    """For whom lines are asked: the tenant, with the quotas of the key that made the batch."""
    limits = Limits() if key is None else key_limits(key)
    return Principal(tenant_of_row(tenant), row.key_id, frozenset({"infer"}), limits)


def input_file(connection: Connection, file_id: str) -> Row[Any] | None:
    """The row of the file; None when it was deleted."""
    return connection.execute(sa.select(FILES).where(FILES.c.id == file_id, FILES.c.deleted_at.is_(None))).one_or_none()


def change(connection: Connection, batch_id: str, **values: Any) -> Row[Any]:
    """Change columns of a batch; its new row. An end is announced to the tenant's webhooks."""
    changed = connection.execute(
        BATCHES.update().where(BATCHES.c.id == batch_id).values(**values).returning(BATCHES)
    ).one()
    if values.get("status") in FINISHED:
        announce(connection, changed.tenant_id, f"batch.{changed.status}", changed.id)
    return changed


def begin(connection: Connection, batch_id: str, owner: str, *, total: int, model: str | None) -> bool:
    """The file is valid: its lines are to be answered. False when the batch is another's, or to be cancelled."""
    row = standing(connection, batch_id, owner, lock=True).row
    if row.lease_owner != owner or row.status != "validating":
        return False
    change(connection, batch_id, status="in_progress", in_progress_at=now(), total=total, model=model)
    return True


def settle(
    connection: Connection, batch_id: str, owner: str, outcome: Outcome, errors: Sequence[Mapping[str, Any]] = ()
) -> Row[Any] | None:
    """Settle how the batch ends; from now on no answer is added. Its row; None when it is no longer `owner`'s."""
    row = standing(connection, batch_id, owner, lock=True).row
    if row.lease_owner != owner or row.status in FINISHED:
        return None
    if row.outcome is not None:
        return row
    values: dict[str, Any] = {"outcome": outcome}
    if errors:
        values["errors"] = json.dumps(list(errors))
    if row.status != "cancelling":
        values |= {"status": "finalizing", "finalizing_at": now()}
    elif outcome == "completed":
        values["outcome"] = "cancelled"  # it was asked for in time
    return change(connection, batch_id, **values)


def end(connection: Connection, row: Row[Any], **files: Any) -> None:
    """The files are written: the batch has ended. `row` is locked, and its lease the caller's."""
    outcome: Outcome = cast(Outcome, row.outcome)
    values = {"status": outcome, f"{outcome}_at": now(), "lease_owner": None, "lease_expires_at": None, **files}
    change(connection, row.id, **values)


def release(connection: Connection, batch_id: str, owner: str, *, counted: bool, rest_s: int = 0) -> None:
    """Give the lease up, so that another gateway may have the batch, after `rest_s` seconds. `counted`: as an attempt
    that failed."""
    mine = BATCHES.c.id == batch_id, BATCHES.c.lease_owner == owner
    values: dict[str, Any] = {"lease_owner": None, "lease_expires_at": now() + rest_s}
    if not counted:
        values["attempts"] = sa.case((BATCHES.c.attempts > 0, BATCHES.c.attempts - 1), else_=0)
    connection.execute(BATCHES.update().where(*mine).values(values))
