"""The rows of Idempotency-Keys: which request a tenant has sent with a key, and what it was answered.

Functions of the connection of the transaction that does what the request asks for. However the server ends, either both
are there, what was done and the key with its answer, or neither is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from server.core.errors import UnprocessableEntity, quoted
from server.core.idempotency import IDEMPOTENCY_HEADER
from server.db.database import Database
from server.db.retention import KEY_KEPT_S
from server.db.tables import IDEMPOTENCY_KEYS


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """`text` is what the client sent in the header; `fingerprint` the SHA-256 of what it asks for."""

    tenant_id: int
    text: str
    fingerprint: str


def claim_key(database: Database, connection: Connection, key: IdempotencyKey, at: float) -> Row[Any] | None:
    """Take the key, waiting for a transaction that has it; its row, with the answer, when it was taken before.

    Raises UnprocessableEntity (422) when it was used for another request. `at` is now, in seconds since 1970.
    """
    old = IDEMPOTENCY_KEYS.c.created_at < int(at) - KEY_KEPT_S
    connection.execute(IDEMPOTENCY_KEYS.delete().where(*_is(key), old))
    claim = database.insert(IDEMPOTENCY_KEYS).values(
        tenant_id=key.tenant_id,
        key=key.text,
        fingerprint=key.fingerprint,
        status=0,
        body="{}",
        headers="{}",
        created_at=int(at),
    )
    claimed = claim.on_conflict_do_nothing().returning(IDEMPOTENCY_KEYS.c.key)
    if connection.execute(claimed).one_or_none() is not None:
        return None
    # Locked: of two that give the key another answer, the second sees that of the first.
    row = connection.execute(sa.select(IDEMPOTENCY_KEYS).where(*_is(key)).with_for_update()).one()
    if row.fingerprint != key.fingerprint:
        raise UnprocessableEntity(
            f"The Idempotency-Key {quoted(key.text)} was used for another request; send a new key with a new request.",
            param=IDEMPOTENCY_HEADER,
            code="idempotency_key_reused",
        )
    return row


def keep_answer(
    connection: Connection, key: IdempotencyKey, status: int, body: Mapping[str, Any], headers: Mapping[str, str]
) -> None:
    """Keep the answer for when a request with `key`, which this transaction has claimed, comes again."""
    connection.execute(
        IDEMPOTENCY_KEYS.update()
        .where(*_is(key))
        .values(status=status, body=json.dumps(body), headers=json.dumps(headers))
    )


def _is(key: IdempotencyKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (IDEMPOTENCY_KEYS.c.tenant_id == key.tenant_id, IDEMPOTENCY_KEYS.c.key == key.text)
