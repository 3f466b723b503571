"""Webhooks of tenants: their endpoints, and the events that are to be told them.

`announce` is called in the transaction in which something ends: either both are there, or neither. An event is a row in
the queue of each endpoint that asked for its type, and goes when the endpoint has taken it (webhook_delivery.py).

Functions of a connection.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import check_after, is_id, new_id
from server.core.seals import CannotOpen
from server.db.tenant_lock import lock_tenant
from server.db.webhook_tables import WEBHOOK_DELIVERIES, WEBHOOK_ENDPOINTS
from server.endpoints.webhook_delivery import soon
from server.endpoints.webhook_secrets import NO_SEED, WebhookSecrets

PREFIX = "we_"
EVENT_PREFIX = "evt_"
EventType = Literal[
    "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled",
    "batch.completed", "batch.failed", "batch.expired", "batch.cancelled",
    "response.completed", "response.failed", "response.cancelled", "response.incomplete",
]  # fmt: skip
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
MAX_ENDPOINTS = 20
# Events that wait for one endpoint; beyond that new ones are not told it.
MAX_WAITING = 10_000
OLD_SECRET_S = 24 * 3600


def announce(connection: Connection, tenant_id: int, event_type: str, object_id: str) -> None:
    """Have the tenant's endpoints told that `event_type` happened to the job, batch or response `object_id`."""
    # Locked, so that none of them is deleted, or found to have nothing to be told, before this is there.
    rows = connection.execute(_of_tenant(tenant_id).order_by(WEBHOOK_ENDPOINTS.c.id).with_for_update()).all()
    event_id, body = new_event(event_type, object_id)
    for row in rows:
        if event_type not in json.loads(row.event_types):
            continue
        waiting = sa.select(WEBHOOK_DELIVERIES.c.event_id).where(WEBHOOK_DELIVERIES.c.endpoint_id == row.id)
        count = sa.select(sa.func.count()).select_from(waiting.limit(MAX_WAITING).subquery())
        if connection.execute(count).scalar_one() >= MAX_WAITING:
            structlog.get_logger().warning("webhook event dropped", endpoint=row.id, waiting=MAX_WAITING)
            continue
        delivery = {"endpoint_id": row.id, "event_id": event_id, "body": body, "created_at": now()}
        connection.execute(WEBHOOK_DELIVERIES.insert().values(delivery))
        if row.next_at is None:
            change = WEBHOOK_ENDPOINTS.update().where(WEBHOOK_ENDPOINTS.c.id == row.id)
            connection.execute(change.values(next_at=now()))


def new_event(event_type: str, object_id: str) -> tuple[str, str]:
    """The id of a new event, and the event as JSON, in OpenAI's shape."""
    event_id = new_id(EVENT_PREFIX)
    event = {"id": event_id, "object": "event", "created_at": now(), "type": event_type, "data": {"id": object_id}}
    return event_id, json.dumps(event)


def create_endpoint(
    connection: Connection, tenant_id: int, *, name: str, url: str, event_types: Sequence[str], secret: str
) -> Row[Any]:
    """A new endpoint; `secret` as WebhookSecrets.new gives it. BadRequest when the tenant has as many as it may."""
    lock_tenant(connection, tenant_id)
    there = connection.execute(sa.select(sa.func.count()).select_from(_of_tenant(tenant_id).subquery())).scalar_one()
    if there >= MAX_ENDPOINTS:
        raise BadRequest(
            f"There are {there} webhook endpoints, expected at most {MAX_ENDPOINTS}; delete one with "
            "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}.",
            code="webhook_endpoint_limit_reached",
        )
    row = {
        "id": new_id(PREFIX),
        "tenant_id": tenant_id,
        "name": name,
        "url": url,
        "event_types": json.dumps(list(event_types)),
        "secret": secret,
        "seed": NO_SEED,
        "created_at": now(),
        "updated_at": now(),
        "failures": 0,
    }
    return connection.execute(WEBHOOK_ENDPOINTS.insert().values(row).returning(WEBHOOK_ENDPOINTS)).one()


def get_endpoint(connection: Connection, tenant_id: int, endpoint_id: str) -> Row[Any]:
    """An endpoint, or NotFound."""
    row = None
    if is_id(endpoint_id, PREFIX):
        wanted = _of_tenant(tenant_id).where(WEBHOOK_ENDPOINTS.c.id == endpoint_id)
        row = connection.execute(wanted).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no webhook endpoint {quoted(endpoint_id)}; GET /v1/webhook_endpoints lists those there are.",
            param="webhook_endpoint_id",
            code="webhook_endpoint_not_found",
        )
    return row


def list_endpoints(
    connection: Connection, tenant_id: int, after: str | None, limit: int
) -> tuple[Sequence[Row[Any]], bool]:
    """A page of them, newest first, and whether there are more."""
    rows = _of_tenant(tenant_id)
    if after is not None:
        check_after(after, PREFIX, "a webhook endpoint")
        rows = rows.where(WEBHOOK_ENDPOINTS.c.id < after)
    found = connection.execute(rows.order_by(WEBHOOK_ENDPOINTS.c.id.desc()).limit(limit + 1)).all()
    return found[:limit], len(found) > limit


def update_endpoint(connection: Connection, tenant_id: int, endpoint_id: str, **values: Any) -> Row[Any]:
    """Change columns of an endpoint, of which another URL or secret may mend it; the row then. NotFound."""
    row = get_endpoint(connection, tenant_id, endpoint_id)
    if not values:
        return row
    if "url" in values or "secret" in values:
        values |= soon()
    change = WEBHOOK_ENDPOINTS.update().where(WEBHOOK_ENDPOINTS.c.id == row.id).values(**values, updated_at=now())
    return connection.execute(change.returning(WEBHOOK_ENDPOINTS)).one()


def endpoint_answered(connection: Connection, tenant_id: int, endpoint_id: str) -> None:
    """An endpoint took an event that its tenant had sent to it: what else waits for it is told. NotFound."""
    row = get_endpoint(connection, tenant_id, endpoint_id)
    connection.execute(WEBHOOK_ENDPOINTS.update().where(WEBHOOK_ENDPOINTS.c.id == row.id).values(**soon()))


def rotate_secret(connection: Connection, tenant_id: int, endpoint_id: str, secret: str, *, keep_old: bool) -> Row[Any]:
    """Give an endpoint another `secret`, as WebhookSecrets.new gives it; with `keep_old` the one before it signs too,
    for a day. NotFound."""
    row = get_endpoint(connection, tenant_id, endpoint_id)
    old: dict[str, Any] = {"old_secret": None, "old_seed": None}
    if keep_old:
        old = {"old_secret": row.secret, "old_seed": row.seed or None, "old_seed_until": now() + OLD_SECRET_S}
    return update_endpoint(connection, tenant_id, endpoint_id, secret=secret, seed=NO_SEED, **old)


def renew_webhook_secrets(connection: Connection, secrets: WebhookSecrets) -> int:
    """Store all secrets as new ones are; of how many endpoints they cannot be opened, and stay as they are."""
    unreadable = 0
    for row in connection.execute(sa.select(WEBHOOK_ENDPOINTS).with_for_update()).all():
        try:
            columns = secrets.renewed(row)
        except CannotOpen:
            unreadable += 1
            continue
        if columns:
            connection.execute(WEBHOOK_ENDPOINTS.update().where(WEBHOOK_ENDPOINTS.c.id == row.id).values(columns))
    return unreadable


def delete_endpoint(connection: Connection, tenant_id: int, endpoint_id: str) -> None:
    """Delete an endpoint, with what it was not told yet. NotFound."""
    row = get_endpoint(connection, tenant_id, endpoint_id)
    # Locked first, so that nothing is announced to it meanwhile.
    connection.execute(sa.select(WEBHOOK_ENDPOINTS.c.id).where(WEBHOOK_ENDPOINTS.c.id == row.id).with_for_update())
    connection.execute(WEBHOOK_DELIVERIES.delete().where(WEBHOOK_DELIVERIES.c.endpoint_id == row.id))
    connection.execute(WEBHOOK_ENDPOINTS.delete().where(WEBHOOK_ENDPOINTS.c.id == row.id))


def _of_tenant(tenant_id: int) -> sa.Select[Any]:
    return sa.select(WEBHOOK_ENDPOINTS).where(WEBHOOK_ENDPOINTS.c.tenant_id == tenant_id)
