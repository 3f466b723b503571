"""The rows of stored responses. A tenant sees its own; another tenant's is answered like one that never was.

A tenant's responses take so many bytes at most: the oldest make room for a new one. One that runs has a lease, which
the gateway that runs it renews; when that gateway is gone the lease ends, and with it the response, as failed. Whoever
ends a response in the background is the first to do so: later ends change nothing.

Functions of a connection. Those that change rows lock the tenant's room first, so that no two of them wait for each
other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.clock import now
from server.core.errors import BadRequest, NotFound, quoted
from server.core.ids import is_id
from server.core.names import INLINE_LABEL, MIX_LABEL
from server.db.database import Database
from server.db.response_tables import RESPONSE_ITEMS, RESPONSES
from server.endpoints.webhooks import announce
from server.inference.responses.input_items import MAX_ID_CHARS
from server.inference.responses.room import add_bytes, delete_rows, evict

PREFIX = "resp_"
# What a row takes beside its texts, roughly; it bounds how many rows there are.
ROW_BYTES = 512
LEASE_S = 30
RUNNING = ("queued", "in_progress")
TOO_LARGE = {
    "code": "server_error",
    "message": "The answer is longer than responses may be here (the server's setting max_response_bytes). "
    "Ask without background or without stream, or with a lower max_output_tokens.",
}
MAX_MODEL_CHARS = 255
_LOST_AT_ONCE = 100


def insert_response(
    database: Database,
    connection: Connection,
    *,
    tenant_id: int,
    items: Sequence[Mapping[str, Any]],
    response: Mapping[str, Any],
    streams: bool,
    most_bytes: int,
    most_tenant_bytes: int,
) -> bool:
    """Store `response`, OpenAI's object, and its input `items`. The tenant's oldest make room for it.

    False when it has more than `most_bytes`. One that runs (by its status) has a lease from now on; one that `streams`
    has no events yet (event_rows.py).
    """
    texts = {"input": _json(items), "response": _json(response)}
    size = ROW_BYTES + sum(len(text.encode()) for text in texts.values())
    if size > min(most_bytes, most_tenant_bytes):
        return False
    used = add_bytes(database, connection, tenant_id, size)
    if used > most_tenant_bytes:
        evict(connection, tenant_id, used - most_tenant_bytes)
    row = {
        "id": response["id"],
        "tenant_id": tenant_id,
        "created_at": response["created_at"],
        "status": response["status"],
        "background": response["background"],
        "bytes": size,
        "lease_expires_at": now() + LEASE_S if response["status"] in RUNNING else None,
        "events": 0 if streams else None,
        "previous_response_id": response["previous_response_id"],
        **_models(response),
        **texts,
    }
    connection.execute(RESPONSES.insert().values(row))
    _insert_items(database, connection, tenant_id, response)
    return True


def get_response(connection: Connection, tenant_id: int, response_id: str, *, param: str = "response_id") -> Row[Any]:
    """The row of a response, or NotFound."""
    row = find_response(connection, tenant_id, response_id)
    if row is None:
        raise _not_found(response_id, param)
    return row


def find_response(connection: Connection, tenant_id: int, response_id: str) -> Row[Any] | None:
    """The row of a response, None when the tenant has none of this id."""
    if not is_id(response_id, PREFIX):
        return None
    wanted = sa.select(RESPONSES).where(RESPONSES.c.id == response_id, RESPONSES.c.tenant_id == tenant_id)
    return connection.execute(wanted).one_or_none()


def response_of(row: Row[Any]) -> dict[str, Any]:
    """OpenAI's object."""
    return {**json.loads(row.response), "status": row.status}


def find_items(connection: Connection, tenant_id: int, item_ids: Iterable[str], most_bytes: int) -> dict[str, Any]:
    """Items of the tenant's outputs by their ids; those there are.

    BadRequest when the responses that they are of, without their inputs, have more than `most_bytes` together.
    """
    wanted = set(item_ids)
    of_item = sa.and_(RESPONSE_ITEMS.c.tenant_id == tenant_id, RESPONSE_ITEMS.c.item_id.in_(sorted(wanted)))
    holders = connection.execute(sa.select(RESPONSE_ITEMS.c.response_id).where(of_item).distinct()).scalars().all()
    found: dict[str, Any] = {}
    read = 0
    for holder in holders:
        text = connection.execute(sa.select(RESPONSES.c.response).where(RESPONSES.c.id == holder)).scalar_one()
        read += len(text.encode())
        if read > most_bytes:
            raise BadRequest(
                f"input refers to items of responses that have more than {most_bytes} bytes together as JSON, with the "
                "instructions and tools that each of them repeats. Send some of the items themselves, or go on from "
                "the last response with previous_response_id.",
                param="input",
                code="too_many_references",
            )
        found |= {item["id"]: item for item in json.loads(text)["output"] if item.get("id") in wanted}
    return found


def begin_response(connection: Connection, response_id: str) -> None:
    """A queued response runs now."""
    queued = sa.and_(RESPONSES.c.id == response_id, RESPONSES.c.status == "queued")
    connection.execute(RESPONSES.update().where(queued).values(status="in_progress"))


def end_response(
    database: Database,
    connection: Connection,
    tenant_id: int,
    response_id: str,
    ended: Mapping[str, Any],
    *,
    most_bytes: int,
) -> Row[Any] | None:
    """End a response that runs: `ended` are the fields of OpenAI's object that change, its status among them.

    One that has more than `most_bytes` then has failed instead. The row, or None when it did not run any more.
    """
    add_bytes(database, connection, tenant_id, 0)
    wanted = sa.select(RESPONSES).where(RESPONSES.c.id == response_id, RESPONSES.c.tenant_id == tenant_id)
    row = connection.execute(wanted.with_for_update()).one_or_none()
    if row is None or row.status not in RUNNING:
        return None
    stored = json.loads(row.response)
    response = {**stored, **ended, "created_at": stored["created_at"]}
    text = _json(response)
    added = len(text.encode()) - len(row.response.encode())
    if row.bytes + added > most_bytes and ended.get("output"):
        response = {**stored, "status": "failed", "error": TOO_LARGE}
        text = _json(response)
        added = len(text.encode()) - len(row.response.encode())
    values = {"status": response["status"], "response": text, "bytes": row.bytes + added, "lease_expires_at": None}
    update = RESPONSES.update().where(RESPONSES.c.id == response_id).values({**values, **_models(response)})
    changed = connection.execute(update.returning(RESPONSES))
    row = changed.one()
    add_bytes(database, connection, tenant_id, added)
    _insert_items(database, connection, tenant_id, response)
    if row.background:  # of any other its client has the answer, or knows that it broke off
        announce(connection, tenant_id, f"response.{row.status}", response_id)
    return row


def renew_leases(connection: Connection, response_ids: Iterable[str]) -> set[str]:
    """Go on with responses; the ids of those that still run."""
    still = sa.and_(RESPONSES.c.id.in_(list(response_ids)), RESPONSES.c.status.in_(RUNNING))
    renewed = RESPONSES.update().where(still).values(lease_expires_at=now() + LEASE_S)
    return set(connection.execute(renewed.returning(RESPONSES.c.id)).scalars())


def lost_responses(connection: Connection) -> Sequence[Any]:
    """Some responses (id, tenant_id) whose gateway has been silent for too long."""
    lost = sa.select(RESPONSES.c.id, RESPONSES.c.tenant_id).where(RESPONSES.c.lease_expires_at < now())
    return connection.execute(lost.order_by(RESPONSES.c.id).limit(_LOST_AT_ONCE)).all()


def delete_response(database: Database, connection: Connection, tenant_id: int, response_id: str) -> None:
    """Delete a response for good, whether it runs or not. NotFound when there is none."""
    add_bytes(database, connection, tenant_id, 0)
    row = get_response(connection, tenant_id, response_id)
    add_bytes(database, connection, tenant_id, -delete_rows(connection, [row]))


def _insert_items(database: Database, connection: Connection, tenant_id: int, response: Mapping[str, Any]) -> None:
    ids = {item["id"] for item in response["output"] if isinstance(item.get("id"), str)}
    short = [one for one in sorted(ids) if len(one) <= MAX_ID_CHARS]
    rows = [{"tenant_id": tenant_id, "item_id": one, "response_id": response["id"]} for one in short]
    if rows:
        connection.execute(database.insert(RESPONSE_ITEMS).values(rows).on_conflict_do_nothing())


def _models(response: Mapping[str, Any]) -> dict[str, str | None]:
    """What listings say of the model. Rows of older servers have what their clients sent until they have run."""
    model = response.get("model")
    if not isinstance(model, str) or not model.isprintable():
        return {"model": None, "model_name": None}
    return {"model": model[:MAX_MODEL_CHARS], "model_name": name_of(model)[:MAX_MODEL_CHARS]}


def name_of(model: str) -> str:
    """The name under which all versions of an adapter are found, all vectors of requests, or all mixtures."""
    label, digest, _ = model.partition(":")
    return label if digest and label in (INLINE_LABEL, MIX_LABEL) else model.partition("@")[0]


def _json(value: object) -> str:
    # JSON escapes NUL, which PostgreSQL's text does not take.
    return json.dumps(value, ensure_ascii=False)


def _not_found(response_id: str, param: str) -> NotFound:
    return NotFound(
        f"There is no response {quoted(response_id)}: it was not stored, has been deleted, or is older than responses "
        "are kept.",
        param=param,
        code="response_not_found",
    )
