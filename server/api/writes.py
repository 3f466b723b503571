"""Writes over HTTP: each is one transaction with its line in the audit log and, if asked for, its idempotency key.

The answer to a write with an Idempotency-Key is stored by the transaction that did the write. However the server ends,
either both are there, and the same request again gets the same answer, or neither is, and the write is done then.

What is written is up to a function of the connection, which a route hands in:

    def do(connection: Connection) -> Answer: ...
    return write.run("tenant.create", name, do)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy.engine import Connection
from starlette.responses import JSONResponse

from server.api.schemas.audit import ID_PREFIX
from server.core.clock import Clock, now
from server.core.errors import UnprocessableEntity, quoted
from server.core.ids import new_id
from server.core.principal import Principal
from server.db.database import Database
from server.db.retention import KEY_KEPT_S
from server.db.tables import AUDIT_LOG, IDEMPOTENCY_KEYS

IDEMPOTENCY_HEADER = "idempotency-key"
REPLAYED_HEADER = "idempotent-replayed"
MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, in which request. `idempotency_key` is None when the client sent none."""

    principal: Principal
    request_id: str = ""
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a write answers: an HTTP status, a JSON body and headers.

    `detail` is for the audit log only, which has a line of the write if it `is_news`: if it changed anything.
    """

    body: Mapping[str, Any]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    is_news: bool = True

    def response(self) -> JSONResponse:
        """The answer as it leaves."""
        return JSONResponse(dict(self.body), status_code=self.status, headers=dict(self.headers))


class AuditedWrites:
    """Runs writes on one database. Blocks: call it from worker threads. `clock` gives seconds since 1970."""

    def __init__(self, database: Database, *, clock: Clock = now) -> None:
        self._database = database
        self._clock = clock

    def run(
        self,
        author: Author,
        action: str,
        target: str,
        do: Callable[[Connection], Answer],
        *,
        fingerprint: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> Answer:
        """The answer of `do`, or the stored one when `author` has sent the same write before.

        `fingerprint` stands for the request's content. Raises UnprocessableEntity (422) when the key was used for
        another request, and whatever `do` raises, in which case nothing is stored and the key stays free. `do` may be
        called again, for a new transaction.
        """
        digest = hashlib.sha256(json.dumps([action, target, fingerprint]).encode()).hexdigest()

        def once(connection: Connection) -> Answer:
            known = self._claim(connection, author, digest)
            if known is not None:
                return known
            answer = do(connection)
            if answer.is_news:
                connection.execute(
                    AUDIT_LOG.insert().values(
                        public_id=new_id(ID_PREFIX),
                        created_at=int(self._clock()),
                        tenant_id=author.principal.tenant.id,
                        key_id=author.principal.key_id,
                        action=action,
                        target=target,
                        request_id=author.request_id,
                        detail=json.dumps({**(detail or {}), **answer.detail}),
                    )
                )
            if author.idempotency_key is not None:
                connection.execute(
                    IDEMPOTENCY_KEYS.update()
                    .where(*_is_key(author))
                    .values(status=answer.status, body=json.dumps(answer.body), headers=json.dumps(answer.headers))
                )
            return answer

        # `transact` and not `write`: when two writes wait for each other, PostgreSQL ends one, which is done again.
        return self._database.transact(once)

    def _claim(self, connection: Connection, author: Author, digest: str) -> Answer | None:
        """Take the key, waiting for a write in progress that has it; the stored answer when it was taken before."""
        if author.idempotency_key is None:
            return None
        at = int(self._clock())
        connection.execute(
            IDEMPOTENCY_KEYS.delete().where(*_is_key(author), IDEMPOTENCY_KEYS.c.created_at < at - KEY_KEPT_S)
        )
        claim = self._database.insert(IDEMPOTENCY_KEYS).values(
            tenant_id=author.principal.tenant.id,
            key=author.idempotency_key,
            fingerprint=digest,
            status=0,
            body="{}",
            headers="{}",
            created_at=at,
        )
        claimed = claim.on_conflict_do_nothing().returning(IDEMPOTENCY_KEYS.c.key)
        if connection.execute(claimed).one_or_none() is not None:
            return None
        row = connection.execute(sa.select(IDEMPOTENCY_KEYS).where(*_is_key(author))).one()
        if row.fingerprint != digest:
            raise UnprocessableEntity(
                f"The Idempotency-Key {quoted(author.idempotency_key)} was used for another request; "
                "send a new key with a new request.",
                param=IDEMPOTENCY_HEADER,
                code="idempotency_key_reused",
            )
        return Answer(json.loads(row.body), row.status, {**json.loads(row.headers), REPLAYED_HEADER: "true"})


@dataclass(frozen=True, slots=True)
class RequestedWrite:
    """What one request asks to be written; `fingerprint` is of its path, query and body."""

    writes: AuditedWrites
    author: Author
    fingerprint: str

    @property
    def tenant_id(self) -> int:
        """Whose adapters, keys and so on are written."""
        return self.author.principal.tenant.id

    def run(
        self, action: str, target: str, do: Callable[[Connection], Answer], detail: Mapping[str, Any] | None = None
    ) -> JSONResponse:
        """The response to the request. As `AuditedWrites.run`."""
        answer = self.writes.run(self.author, action, target, do, fingerprint=self.fingerprint, detail=detail)
        return answer.response()


def _is_key(author: Author) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        IDEMPOTENCY_KEYS.c.tenant_id == author.principal.tenant.id,
        IDEMPOTENCY_KEYS.c.key == author.idempotency_key,
    )


def fingerprint_of(request: Request, body: bytes) -> str:
    """For `AuditedWrites.run`: SHA-256 of method, path, query and `body`."""
    parts = (request.method, request.url.path, request.url.query)
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + body).hexdigest()
